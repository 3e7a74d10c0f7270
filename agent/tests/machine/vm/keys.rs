//! Keys of a drive that is in use, on the machine of another test: the kernel has the volume open while its keyslots
//! change.

use std::path::PathBuf;

use protocol::action::Credential;
use protocol::fixture::{crypto_lock, rotate};
use serde_json::json;

use super::wipe::{use_volume, uuid};
use crate::keys::{escrowed, key, make_volume, manage, opened_by};
use crate::luks::opens;
use crate::scene::Scene;
use crate::vm::{Bus, Vm};

/// A volume on a drive.
pub(super) struct Volume {
    drive: PathBuf,
    uuid: String,
}

/// Attaches it to a machine that is off.
pub(super) fn attach(machine: &mut Vm) -> Volume {
    let drive = machine.attach(Bus::Nvme, "drive");
    make_volume(&drive, 32 << 20);
    let uuid = uuid(&drive);
    Volume { drive, uuid }
}

impl Volume {
    /// Its recovery key is made and replaced, and at last it is the only one: the machine goes down with that.
    pub(super) async fn is_left_to_what_is_escrowed(&self, scene: &mut Scene<Vm>) {
        use_volume(&scene.machine, "drive", &self.uuid);
        let by_uuid = format!("/dev/disk/by-uuid/{}", self.uuid);
        let path = scene.machine.sh(&format!("realpath {by_uuid}"));
        scene.machine.sh(&manage(&by_uuid));
        let (first, _) = escrowed(scene, rotate(Credential::Volumes)).await;
        let (next, _) = escrowed(scene, rotate(Credential::Volumes)).await;
        let opened = |credentials| opens(&self.drive, key(credentials, &path));
        assert_eq!([opened(&first), opened(&next)], [false, true]);
        assert_eq!(opened_by(&self.drive), [true; 3]);
        assert!(scene.machine.succeeds("test -s /srv/drive/files && dmsetup table drive"));

        let (last, evidence) = escrowed(scene, crypto_lock()).await;
        assert_eq!(evidence.get("grade"), Some(&json!("proven")));
        assert_eq!(scene.machine.wait_until_off(), 0, "and the power went");
        assert_eq!([opened(&next), opened(&last)], [false, true]);
        assert_eq!(opened_by(&self.drive), [false; 3]);
    }
}
