//! `countersign get`: what people use `curl 127.0.0.1:8006` for, but it fails closed.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::PathBuf;
use std::time::Duration;

use countersign::finding::Class;
use countersign_testbed::guest::{Answer, CDH_FAILED, GuestApi};
use countersign_testbed::world::{Run, World};

const URI: &str = "kbs:///payments/db/password";
const RESOURCE: &str = "payments/db/password";

/// A world whose guest answers the one resource so.
fn world(answer: Answer) -> (World, PathBuf) {
    let world = World::new().unwrap().guest(GuestApi::healthy().answer(RESOURCE, answer));
    let directory = world.ramdir().unwrap();
    (world, directory.join("db/password"))
}

fn get(world: &World, to: &std::path::Path, more: &[&str]) -> Run {
    let mut args = vec!["get", URI, "--to", to.to_str().unwrap()];
    args.extend(more);
    world.countersign(&args).run()
}

/// The regression that this project exists for: whatever the guest answers but the secret, the
/// file is not there and the exit code is not 0.
#[track_caller]
fn refuses(answer: Answer, class: Class, more: &[&str]) -> Run {
    let (world, to) = world(answer);
    let run = get(&world, &to, more).refused(class);
    assert!(world.read(&to).is_err(), "no file: {}", run.output());
    run
}

fn a_secret_reaches_the_file_with_its_mode() {
    let (world, to) = world(Answer::Bytes(b"s3cret".to_vec()));
    let run = get(&world, &to, &[]).expect_code(0);
    assert_eq!(world.read(&to).unwrap(), b"s3cret");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(world.outside(&to)).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o440);
    assert!(!run.output().contains("s3cret"));
    assert_eq!(world.guest_api().count(), 1);
}

fn a_second_get_replaces_the_file_at_once() {
    let world = World::new().unwrap().guest(
        GuestApi::healthy().sequence(RESOURCE, [Answer::Bytes(b"old".to_vec()), Answer::Bytes(b"new".to_vec())]),
    );
    let to = world.ramdir().unwrap().join("password");
    get(&world, &to, &[]).expect_code(0);
    get(&world, &to, &["--mode", "0400"]).expect_code(0);
    assert_eq!(world.read(&to).unwrap(), b"new");
    assert_eq!(world.list(to.parent().unwrap()).unwrap(), ["password"], "nothing is left beside it");
}

fn a_denial_never_reaches_the_file() {
    let run = refuses(Answer::Refused, Class::Backend, &[]);
    assert!(run.saw().contains(URI), "{}", run.output());
    assert!(run.saw().contains("4 tries"), "{}", run.output());
    assert!(!run.output().contains(CDH_FAILED), "the body of an answer is never quoted");
}

fn a_denial_leaves_the_old_file() {
    let world = World::new()
        .unwrap()
        .guest(GuestApi::healthy().sequence(RESOURCE, [Answer::Bytes(b"old".to_vec()), Answer::Refused]));
    let to = world.ramdir().unwrap().join("password");
    get(&world, &to, &[]).expect_code(0);
    get(&world, &to, &[]).refused(Class::Backend);
    assert_eq!(world.read(&to).unwrap(), b"old");
}

fn forbidden_never_reaches_the_file() {
    refuses(Answer::Forbidden, Class::GuestApi, &[]);
}

fn a_feature_that_is_off_names_the_kernel_parameter() {
    let run = refuses(Answer::FeatureOff, Class::GuestApi, &[]);
    assert!(run.next_step().contains("agent.guest_components_rest_api"), "{}", run.output());
}

fn an_unknown_url_never_reaches_the_file() {
    refuses(Answer::NotFound, Class::GuestApi, &[]);
}

fn a_login_page_never_reaches_the_file_even_with_200() {
    refuses(Answer::LoginPage200, Class::GuestApi, &[]);
    refuses(Answer::LoginPage403, Class::GuestApi, &[]);
}

fn an_empty_body_never_reaches_the_file() {
    refuses(Answer::Empty, Class::Content, &[]);
}

fn an_empty_body_is_a_file_only_where_asked_for() {
    let (world, to) = world(Answer::Empty);
    get(&world, &to, &["--expect", "min_bytes=0"]).expect_code(0);
    assert_eq!(world.read(&to).unwrap(), b"");
}

fn a_truncated_body_never_reaches_the_file() {
    refuses(Answer::Truncated(b"half a secret".to_vec()), Class::GuestApi, &["--deadline", "30s"]);
    refuses(Answer::ResetMidBody(b"half a secret".to_vec()), Class::GuestApi, &["--deadline", "30s"]);
}

fn an_oversize_body_never_reaches_the_file() {
    for answer in [Answer::EndlessChunks, Answer::Huge(3_000_000_000)] {
        refuses(answer, Class::Content, &[]);
    }
    // Without a length, a cut answer would look whole: that is no answer of this service.
    refuses(Answer::EndlessBody, Class::GuestApi, &[]);
    refuses(Answer::Bytes(vec![b'x'; 17]), Class::Content, &["--expect", "max_bytes=16"]);
}

fn endless_headers_and_garbage_never_reach_the_file() {
    refuses(Answer::EndlessHeaders, Class::GuestApi, &["--deadline", "30s"]);
    refuses(Answer::Garbage, Class::GuestApi, &["--deadline", "30s"]);
}

fn a_redirect_is_not_followed() {
    let run = refuses(Answer::Redirect("http://192.0.2.1/secret".to_owned()), Class::GuestApi, &[]);
    assert!(!run.output().contains("192.0.2.1"));
}

fn a_slow_guest_is_waited_for_until_the_deadline_and_no_longer() {
    let run = refuses(Answer::Silent, Class::Unreachable, &["--deadline", "10s"]);
    assert!(run.elapsed < Duration::from_secs(15), "{:?}", run.elapsed);
    assert!(run.saw().contains("deadline"), "{}", run.output());
}

fn one_byte_at_a_time_is_still_a_secret() {
    let (world, to) = world(Answer::Slow(b"slow but whole".to_vec(), Duration::from_millis(2)));
    get(&world, &to, &[]).expect_code(0);
    assert_eq!(world.read(&to).unwrap(), b"slow but whole");
}

fn a_guest_that_fails_twice_and_recovers_is_a_success() {
    let world = World::new().unwrap().guest(GuestApi::healthy().fails_then(2, RESOURCE, b"at last"));
    let to = world.ramdir().unwrap().join("password");
    get(&world, &to, &[]).expect_code(0);
    assert_eq!(world.read(&to).unwrap(), b"at last");
    assert_eq!(world.guest_api().count(), 3);
}

fn at_most_four_tries_on_a_500() {
    let (world, to) = world(Answer::Refused);
    get(&world, &to, &[]).refused(Class::Backend);
    assert_eq!(world.guest_api().count(), 4);
}

fn a_refused_connection_early_in_boot_is_waited_out_and_is_no_try() {
    let world = World::new().unwrap().guest(GuestApi::healthy().refused_for(Duration::from_secs(3)).fails_then(
        3,
        RESOURCE,
        b"after boot",
    ));
    let to = world.ramdir().unwrap().join("password");
    let args = ["get", URI, "--to", to.to_str().unwrap()];
    let run = world.countersign(&args).env("KUBERNETES_SERVICE_HOST", "10.0.0.1").run().expect_code(0);
    assert_eq!(world.read(&to).unwrap(), b"after boot");
    assert!(run.elapsed >= Duration::from_secs(3));
}

fn without_a_guest_service_it_says_so_and_what_to_change() {
    let world = World::new().unwrap();
    let to = world.ramdir().unwrap().join("password");
    let run = get(&world, &to, &["--deadline", "10s"]).refused(Class::GuestApi);
    assert!(run.saw().contains("127.0.0.1:8006"), "{}", run.output());
}

fn proxies_in_the_environment_are_not_used() {
    let (world, to) = world(Answer::Bytes(b"direct".to_vec()));
    let args = ["get", URI, "--to", to.to_str().unwrap()];
    world
        .countersign(&args)
        .env("HTTP_PROXY", "http://127.0.0.1:9")
        .env("http_proxy", "http://127.0.0.1:9")
        .env("ALL_PROXY", "socks5://127.0.0.1:9")
        .run()
        .expect_code(0);
    assert_eq!(world.read(&to).unwrap(), b"direct");
}

fn expectations_are_checked_before_the_file_exists() {
    let cases: [(&[u8], &str); 6] = [
        (b"\xff\xfe", "format=utf8"),
        (b"<html>", "format=json"),
        (b"-----BEGIN CERTIFICATE-----\n", "format=pem"),
        (b"no key", "format=tls-pair"),
        (b"denied", "equals=success"),
        (b"x", "sha256=0000000000000000000000000000000000000000000000000000000000000000"),
    ];
    for (bytes, expect) in cases {
        refuses(Answer::Bytes(bytes.to_vec()), Class::Content, &["--expect", expect]);
    }
}

fn a_sealed_secret_on_the_command_line_is_refused() {
    let (world, to) = world(Answer::Bytes(b"x".to_vec()));
    world.countersign(&["get", "sealed.a.b.c", "--to", to.to_str().unwrap()]).run().refused(Class::Config);
    assert_eq!(world.guest_api().count(), 0);
}

fn rubbish_on_the_command_line_is_usage() {
    let (world, to) = world(Answer::Bytes(b"x".to_vec()));
    let to = to.to_str().unwrap();
    for args in [
        vec!["get", "http://127.0.0.1:8006/cdh/resource/a/b/c", "--to", to],
        vec!["get", "kbs:///a/../c", "--to", to],
        vec!["get", URI, "--to", to, "--mode", "4755"],
        vec!["get", URI, "--to", to, "--mode", "0666"],
        vec!["get", URI, "--to", to, "--expect", "format=xml"],
        vec!["get", URI, "--to", to, "--expect", "formt=utf8"],
        vec!["get", URI, "--to", to, "--deadline", "soon"],
    ] {
        world.countersign(&args).run().refused(Class::Usage);
    }
    for args in [vec!["get", URI], vec!["gett"], vec!["--no-such-flag"]] {
        world.countersign(&args).run().expect_code(64);
    }
    assert_eq!(world.guest_api().count(), 0);
}

countersign_testbed::main! {
    a_secret_reaches_the_file_with_its_mode [GuestPort, Memory],
    a_second_get_replaces_the_file_at_once [GuestPort, Memory],
    a_denial_never_reaches_the_file [GuestPort, Memory],
    a_denial_leaves_the_old_file [GuestPort, Memory],
    forbidden_never_reaches_the_file [GuestPort, Memory],
    a_feature_that_is_off_names_the_kernel_parameter [GuestPort, Memory],
    an_unknown_url_never_reaches_the_file [GuestPort, Memory],
    a_login_page_never_reaches_the_file_even_with_200 [GuestPort, Memory],
    an_empty_body_never_reaches_the_file [GuestPort, Memory],
    an_empty_body_is_a_file_only_where_asked_for [GuestPort, Memory],
    a_truncated_body_never_reaches_the_file [GuestPort, Memory],
    an_oversize_body_never_reaches_the_file [GuestPort, Memory],
    endless_headers_and_garbage_never_reach_the_file [GuestPort, Memory],
    a_redirect_is_not_followed [GuestPort, Memory],
    a_slow_guest_is_waited_for_until_the_deadline_and_no_longer [GuestPort, Memory],
    one_byte_at_a_time_is_still_a_secret [GuestPort, Memory],
    a_guest_that_fails_twice_and_recovers_is_a_success [GuestPort, Memory],
    at_most_four_tries_on_a_500 [GuestPort, Memory],
    a_refused_connection_early_in_boot_is_waited_out_and_is_no_try [GuestPort, Memory],
    without_a_guest_service_it_says_so_and_what_to_change [GuestPort, Memory],
    proxies_in_the_environment_are_not_used [GuestPort, Memory],
    expectations_are_checked_before_the_file_exists [GuestPort, Memory],
    a_sealed_secret_on_the_command_line_is_refused [GuestPort, Memory],
    rubbish_on_the_command_line_is_usage [GuestPort, Memory],
}
