//! Takes the place of the CRIU client that libcontainer depends on.
//!
//! rkube does not checkpoint containers, and libcontainer cannot be built without its
//! client, which compiles protobuf twice and a compiler of its schemas: a tenth of the
//! build's dependencies for a feature that is never called. This crate has the part of
//! the interface that libcontainer names. No [`Criu`] can be made, so that an attempt to
//! checkpoint ends in an error.

use std::convert::Infallible;
use std::fmt;
use std::os::fd::RawFd;

/// How a checkpoint treats control groups.
#[derive(Clone)]
pub enum CgMode {
    /// As CRIU chooses.
    DEFAULT,
}

/// The error of every operation: there is no CRIU.
#[derive(Debug)]
pub struct Unsupported;

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rkube is built without checkpoints")
    }
}

impl std::error::Error for Unsupported {}

/// A connection to CRIU, of which there is none.
pub struct Criu(Infallible);

/// Declares setters of requests that cannot exist.
macro_rules! setters {
    ($($name:ident($($kind:ty),+);)*) => {$(
        #[doc = concat!("Cannot be called; stands for `", stringify!($name), "`.")]
        pub fn $name(&mut self, $(_: $kind),+) {
            match self.0 {}
        }
    )*};
}

impl Criu {
    /// Returns [`Unsupported`].
    ///
    /// # Errors
    /// Always.
    pub fn new() -> Result<Self, Unsupported> {
        Err(Unsupported)
    }

    /// Cannot be called; stands for the question for CRIU's version.
    ///
    /// # Errors
    /// None: there is no value to call it on.
    pub fn get_criu_version(&mut self) -> Result<u32, Unsupported> {
        match self.0 {}
    }

    /// Cannot be called; stands for the checkpoint itself.
    ///
    /// # Errors
    /// None: there is no value to call it on.
    pub fn dump(&mut self) -> Result<(), Unsupported> {
        match self.0 {}
    }

    setters! {
        add_external(String);
        cgroups_mode(CgMode);
        set_ext_unix_sk(bool);
        set_external_mount(String, String);
        set_file_locks(bool);
        set_images_dir_fd(RawFd);
        set_leave_running(bool);
        set_link_remap(bool);
        set_log_file(String);
        set_log_level(i32);
        set_manage_cgroups(bool);
        set_orphan_pts_master(bool);
        set_pid(i32);
        set_root(String);
        set_shell_job(bool);
        set_tcp_established(bool);
        set_work_dir_fd(RawFd);
    }
}

/// Returns CRIU's name of an external namespace of this kind.
pub fn criu_ns_to_key(name: &str) -> String {
    let mut letters = name.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string());
    format!("extRoot{}{}NS", first.unwrap_or_default(), letters.as_str())
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_no_checkpoint() {
        let error = super::Criu::new().err().expect("an error");
        assert!(error.to_string().contains("without checkpoints"));
        assert_eq!(super::criu_ns_to_key("net"), "extRootNetNS");
    }
}
