//! Scripts of the two machines.
