//! A simulated TEE in a world: a signer's socket, and what `countersign-sim` is told of it.

use std::fs::{self, Permissions};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::{Cmd, World};
use crate::guest_signer::Signer;
use crate::sim;
use crate::tee::Vendor;

/// A signer that listens. Derefs to it. Takes no more guests once dropped.
#[derive(Debug)]
pub struct RunningSigner {
    signer: Signer,
    socket: PathBuf,
    stop: Arc<AtomicBool>,
}

impl World {
    /// Starts a signer, for runs of `countersign-sim` with [`Cmd::tee`].
    ///
    /// # Panics
    /// When the socket cannot be made.
    pub fn signer(&self, signer: Signer) -> RunningSigner {
        let socket = self.directory().join(self.unused_name("signer"));
        let listener = UnixListener::bind(&socket).expect("a new name in the world's directory");
        // Whoever the guest's program runs as.
        fs::set_permissions(&socket, Permissions::from_mode(0o666)).expect("the socket is ours");
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, stopped) = (signer.clone(), Arc::clone(&stop));
        thread::spawn(move || {
            while let Ok((mut guest, _)) = listener.accept() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let signer = theirs.clone();
                // A guest that goes away in mid-frame is the test's wish, or shows in its verdict.
                thread::spawn(move || drop(signer.serve(&mut guest)));
            }
        });
        RunningSigner { signer, socket, stop }
    }
}

impl World {
    /// A new directory with these files, for whoever the guest's program runs as.
    fn readable<T: AsRef<[u8]>>(&self, name: &str, files: &[(&str, T)]) -> PathBuf {
        let directory = self.directory().join(self.unused_name(name));
        fs::create_dir(&directory).expect("a new name in the world's directory");
        let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
        open(&directory, 0o755);
        for (name, text) in files {
            let file = directory.join(name);
            fs::write(&file, text).expect("a new directory");
            open(&file, 0o644);
        }
        directory
    }
}

impl RunningSigner {
    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for RunningSigner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes accept(2).
        let _ = UnixStream::connect(&self.socket);
    }
}

impl Deref for RunningSigner {
    type Target = Signer;

    fn deref(&self) -> &Signer {
        &self.signer
    }
}

impl Cmd<'_> {
    /// Runs `countersign-sim` in a guest with this signer's hardware, and believes the vendors that the
    /// testbed's guests are made by.
    #[must_use]
    pub fn tee(self, signer: &RunningSigner) -> Self {
        let value = format!("{}={}", signer.socket.display(), signer.provider());
        self.arg("--sim-tee").arg(value).makers()
    }

    /// Has `countersign-sim` believe hardware of [`Vendor::ours`] in place of AMD's and Intel's.
    ///
    /// # Panics
    /// When the world's directory cannot be written to.
    #[must_use]
    pub fn makers(self) -> Self {
        let vendor = Vendor::ours();
        let files = [(sim::AMD, vendor.amd_roots()), (sim::INTEL, vendor.intel_root())];
        let directory = self.world.readable("makers", &files);
        self.arg("--sim-makers").arg(directory)
    }

    /// Mounts initdata for `countersign-sim`, as `ConfigMap`s are: one file in a directory.
    ///
    /// # Panics
    /// When the world's directory cannot be written to.
    #[must_use]
    pub fn initdata(self, text: impl AsRef<[u8]>) -> Self {
        let directory = self.world.readable("initdata", &[("initdata.toml", text)]);
        self.arg("--sim-initdata").arg(directory)
    }
}
