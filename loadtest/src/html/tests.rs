//! The page: whole, safe, and on its own.

use super::picture::Picture;
use super::*;
use crate::report::tests::made_up;

#[test]
fn page_needs_nothing_from_elsewhere() {
    let page = page(&[made_up("one", 1), made_up("two", 2)]);
    for outside in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link", "//"]
    {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn what_comes_from_outside_is_text() {
    let page = page(&[made_up("<img onerror=x>", 1)]);
    assert!(!page.contains("<img") && !page.contains("<b>connect"), "names and errors are escaped");
    assert!(page.contains("&lt;b&gt;connect&lt;/b&gt;"));
}

#[test]
fn page_has_a_plot_for_each_thing_that_was_measured() {
    let one = page(&[made_up("one", 1)]);
    for caption in [
        "order to ack",
        "while something went on",
        "2.5 s of orders, a &lt;storm&gt;",
        "connecting, ms",
        "every stage",
        "acks per second",
        "memory of the hubs",
    ] {
        assert!(one.contains(caption), "{caption}");
    }
    assert!(!one.contains("group order to ack"), "nothing was ordered of a group");
    assert_eq!(one.matches("<svg").count(), one.matches("</svg>").count());
    let both = page(&[made_up("one", 1), made_up("two", 2)]);
    assert!(both.contains("Side by side") && both.contains("<td>2.00</td>"), "ratios");
    assert!(!one.contains("Side by side"));
}

#[test]
fn higher_values_are_drawn_higher() {
    let curve = Curve { name: "x".to_owned(), points: vec![(0.0, 1.0), (1.0, 100.0)] };
    let plot = Plot { curves: vec![curve], scale: Scale::Log, is_percentile: false };
    let svg = plot.svg();
    let points = svg.split("points=\"").nth(1).expect("a line").split('"').next().expect("its end");
    let heights: Vec<f64> = points
        .split(' ')
        .map(|point| point.split(',').nth(1).expect("a height").parse().expect("a number"))
        .collect();
    assert!(heights[1] < heights[0], "up is a smaller number: {heights:?}");
}

/// A file that is looked at on its own has no page that gives it its colours, and no script may be in it.
#[test]
fn picture_is_a_whole_file_with_the_curves_of_every_run() {
    let reports = [made_up("one", 1), made_up("<two>", 2)];
    let drawn = |picture: Picture| picture.svg(&reports).unwrap_or_default();
    for (picture, curves) in [
        (Picture::Stages, 7),
        (Picture::Acked, 2),
        (Picture::During, 2),
        (Picture::Memory, 2),
        (Picture::Rate, 2),
    ] {
        let file = drawn(picture);
        assert_eq!(file.matches("<polyline").count(), curves, "{picture:?}");
        assert!(file.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox="), "{file}");
        assert!(file.ends_with("</svg>\n") && file.contains("<style>") && file.contains("<title>"));
        assert!(!file.contains("<script") && !file.contains("<two>"), "{file}");
    }
    assert_eq!(Picture::Group.svg(&reports), None, "nothing was ordered of a group");
}
