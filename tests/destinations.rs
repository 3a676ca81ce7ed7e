//! Where secrets may go. Each refusal comes before anything is fetched, and names the mount.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use countersign::finding::Class;
use countersign_testbed::guest::GuestApi;
use countersign_testbed::world::{ActiveSwap, Cmd, Run, Volume, World};

const SECRETS: &str = "db/password=kbs:///payments/db/password,key=kbs:///payments/tls/key";

fn world() -> World {
    World::private()
        .unwrap()
        .guest(GuestApi::healthy().secret("payments/db/password", "alpha").secret("payments/tls/key", "beta"))
}

fn init<'w>(world: &'w World, directory: &Path) -> Cmd<'w> {
    world.countersign(&["init"]).env("COUNTERSIGN_SECRETS", SECRETS).env("COUNTERSIGN_SECRETS_DIRECTORY", directory)
}

#[track_caller]
fn refused(world: &World, directory: &Path) -> Run {
    let run = init(world, directory).run().refused(Class::Destination);
    assert_eq!(world.guest_api().fetched(), 0, "nothing was fetched");
    let to = directory.join("one");
    let args = ["get", "kbs:///payments/db/password", "--to", to.to_str().unwrap()];
    world.countersign(&args).run().refused(Class::Destination);
    assert_eq!(world.guest_api().fetched(), 0, "nothing was fetched");
    assert!(run.next_step().len() > 10);
    run
}

fn a_disk_is_refused() {
    let world = world();
    let directory = world.diskdir().unwrap();
    let run = refused(&world, &directory.join("secrets"));
    assert!(run.next_step().contains("medium: Memory"), "{}", run.output());
}

fn an_overlay_is_refused_although_it_lies_on_memory() {
    let world = world();
    let below = world.volume(&Volume::memory().mode(0o755)).unwrap();
    for name in ["lower", "upper", "work"] {
        std::fs::create_dir(world.outside(below.join(name))).unwrap();
    }
    let b = below.display();
    let Ok(overlay) = world.mount("overlay", &format!("lowerdir={b}/lower,upperdir={b}/upper,workdir={b}/work")) else {
        panic!("overlay cannot be mounted here");
    };
    let run = refused(&world, &overlay.join("secrets"));
    assert!(run.saw().contains("overlay"), "{}", run.output());
    assert!(run.saw().contains(overlay.to_str().unwrap()), "the mount is named: {}", run.output());
}

fn memory_with_active_swap_is_refused() {
    let world = world().swap(ActiveSwap::Disk).unwrap();
    let volume = world.volume(&Volume::memory()).unwrap();
    let run = refused(&world, &volume.join("secrets"));
    assert!(run.saw().contains("swap"), "{}", run.output());
    assert!(run.saw().contains(volume.to_str().unwrap()), "the mount is named: {}", run.output());
}

fn ramfs_is_safe_although_swap_is_active() {
    let world = world().swap(ActiveSwap::Disk).unwrap();
    let volume = world.volume(&Volume::ramfs().mode(0o755)).unwrap();
    init(&world, &volume.join("secrets")).run().expect_code(0);
    assert_eq!(world.read(volume.join("secrets/key")).unwrap(), b"beta");
}

fn a_symlinked_directory_or_parent_is_refused() {
    let world = world();
    let volume = world.volume(&Volume::memory().mode(0o755)).unwrap();
    std::fs::create_dir_all(world.outside(volume.join("real/secrets"))).unwrap();
    std::os::unix::fs::symlink(volume.join("real"), world.outside(volume.join("link"))).unwrap();
    let run = refused(&world, &volume.join("link/secrets"));
    assert!(run.saw().contains("symbolic link") || run.saw().contains("symlink"), "{}", run.output());
    refused(&world, &volume.join("link"));
}

fn a_world_writable_root_without_the_sticky_bit_is_refused() {
    let world = world();
    let volume = world.volume(&Volume::memory().mode(0o777)).unwrap();
    refused(&world, &volume);
    refused(&world, &volume.join("secrets"));
}

fn a_read_only_volume_is_refused() {
    let world = world();
    let volume = world.volume(&Volume::memory().read_only()).unwrap();
    refused(&world, &volume.join("secrets"));
}

fn a_full_volume_is_refused() {
    let world = world();
    let volume = world.volume(&Volume::memory().size("8k")).unwrap();
    std::fs::write(world.outside(volume.join("filler")), vec![1_u8; 8192]).unwrap();
    let run = refused(&world, &volume.join("secrets"));
    assert!(run.saw().contains("bytes free"), "{}", run.output());
}

fn a_volume_too_small_for_the_values_keeps_the_old_set() {
    let world = world();
    let volume = world.volume(&Volume::memory().size("64k")).unwrap();
    let directory = volume.join("secrets");
    init(&world, &directory).run().expect_code(0);
    let world = world.guest(
        GuestApi::healthy().secret("payments/db/password", vec![b'x'; 100_000]).secret("payments/tls/key", "new"),
    );
    init(&world, &directory).run().refused(Class::Destination);
    assert_eq!(world.read(directory.join("key")).unwrap(), b"beta");
    assert_eq!(world.read(directory.join("db/password")).unwrap(), b"alpha");
}

/// Kata's memory emptyDirs, and the uid of the image.
fn works_as_65532(volume: &Volume, group: Option<u32>, below: &str) {
    let world = world();
    let mount = world.volume(volume).unwrap();
    let directory: PathBuf = if below.is_empty() { mount.clone() } else { mount.join(below) };
    let run = |world: &World| {
        let command = init(world, &directory).uid(65532);
        group.into_iter().fold(command, Cmd::group).run().expect_code(0)
    };
    run(&world);
    run(&world);
    let file = world.outside(directory.join("db/password"));
    assert_eq!(std::fs::read(&file).unwrap(), b"alpha");
    let metadata = std::fs::metadata(&file).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o440);
    assert_eq!((metadata.uid(), metadata.gid()), (65532, group.unwrap_or(65532)));
}

fn uid_65532_on_a_1777_root_works() {
    works_as_65532(&Volume::memory(), None, "secrets");
    works_as_65532(&Volume::memory(), None, "");
}

fn uid_65532_on_a_3777_root_works_and_files_belong_to_fs_group() {
    works_as_65532(&Volume::memory().fs_group(4242), Some(4242), "secrets");
    works_as_65532(&Volume::memory().fs_group(4242), Some(4242), "");
}

fn somebody_elses_directory_in_the_volume_is_refused() {
    let world = world();
    let volume = world.volume(&Volume::memory()).unwrap();
    std::fs::create_dir(world.outside(volume.join("secrets"))).unwrap();
    let run = init(&world, &volume.join("secrets")).uid(65532).run().refused(Class::Destination);
    assert_eq!(world.guest_api().fetched(), 0, "{}", run.output());
}

fn an_owner_without_the_capability_to_give_files_away_is_refused_before_fetching() {
    let world = world();
    let volume = world.volume(&Volume::memory()).unwrap();
    let file = world.directory().join("countersign.toml");
    std::fs::write(
        &file,
        format!(
            "version = 1\n[secrets]\ndirectory = \"{}\"\n[[secrets.file]]\npath = \"a\"\n\
             from = \"kbs:///payments/db/password\"\nowner = 1000\n",
            volume.join("secrets").display()
        ),
    )
    .unwrap();
    let run =
        world.countersign(&["init", "--config", file.to_str().unwrap()]).uid(65532).run().refused(Class::Destination);
    assert!(run.output().contains("CAP_CHOWN"), "{}", run.output());
    assert_eq!(world.guest_api().fetched(), 0);
}

countersign_testbed::main! {
    a_disk_is_refused [Namespaces, Disk],
    an_overlay_is_refused_although_it_lies_on_memory [Namespaces],
    memory_with_active_swap_is_refused [Namespaces],
    ramfs_is_safe_although_swap_is_active [Namespaces],
    a_symlinked_directory_or_parent_is_refused [Namespaces],
    a_world_writable_root_without_the_sticky_bit_is_refused [Namespaces],
    a_read_only_volume_is_refused [Namespaces],
    a_full_volume_is_refused [Namespaces],
    a_volume_too_small_for_the_values_keeps_the_old_set [Namespaces],
    uid_65532_on_a_1777_root_works [Namespaces, Users],
    uid_65532_on_a_3777_root_works_and_files_belong_to_fs_group [Namespaces, Users],
    somebody_elses_directory_in_the_volume_is_refused [Namespaces, Users],
    an_owner_without_the_capability_to_give_files_away_is_refused_before_fetching [Namespaces, Users],
}
