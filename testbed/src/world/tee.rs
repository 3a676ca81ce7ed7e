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
    /// Runs `countersign-sim` in a guest with this signer's hardware.
    #[must_use]
    pub fn tee(self, signer: &RunningSigner) -> Self {
        let value = format!("{}={}", signer.socket.display(), signer.provider());
        self.arg("--sim-tee").arg(value)
    }

    /// Mounts initdata for `countersign-sim`, as `ConfigMap`s are: one file in a directory.
    ///
    /// # Panics
    /// When the world's directory cannot be written to.
    #[must_use]
    pub fn initdata(self, text: impl AsRef<[u8]>) -> Self {
        let directory = self.world.directory().join(self.world.unused_name("initdata"));
        let file = directory.join("initdata.toml");
        fs::create_dir(&directory).expect("a new name in the world's directory");
        fs::write(&file, text).expect("a new directory");
        for (path, mode) in [(&directory, 0o755), (&file, 0o644)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).expect("both are ours");
        }
        self.arg("--sim-initdata").arg(directory)
    }
}
