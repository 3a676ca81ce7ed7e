use super::*;

const MAKE: Step = Step { verb: "make", what: "the entry" };

fn every() -> Vec<Error> {
    let mut all = vec![
        Error::Absent,
        Error::NotConfigfs { f_type: 0x0102_1994 },
        Error::NotConfigfs { f_type: SYSFS },
        Error::NoReports,
        Error::UnknownProvider,
        Error::Deadline { step: MAKE },
        Error::Crowded,
        Error::Malformed { attribute: "generation" },
        Error::ShortWrite { attribute: "inblob", count: 3 },
        Error::NotCommitted,
        Error::Contended { ours: 1, found: 2 },
        Error::Empty { provider: Provider::Tdx },
        Error::Empty { provider: Provider::Snp },
        Error::TooLarge { attribute: "outblob", max: 1 },
        Error::Shape { provider: Provider::Snp, bytes: 1 },
        Error::Echo { provider: Provider::Snp },
        Error::BelowFloor { wanted: 0, floor: 2 },
        Error::NoPrivlevels { wanted: 1 },
        Error::NoService,
        Error::ServiceGuid,
        Error::EntryName,
        Error::Sysfs { file: "/sys/devices", problem: "is not sysfs" },
        Error::Device("does not exist"),
        Error::Device("refused"),
        Error::OtherGuest,
        Error::NoRandomness,
        Error::Worker,
    ];
    let errnos = [
        Errno::NXIO,
        Errno::FBIG,
        Errno::INVAL,
        Errno::ACCESS,
        Errno::PERM,
        Errno::NOENT,
        Errno::TIMEDOUT,
        Errno::NOTTY,
        Errno::IO,
        Errno::FAULT,
        Errno::ROFS,
        Errno::BUSY,
        Errno::INTR,
        Errno::AGAIN,
        Errno::NOMEM,
        Errno::XDEV,
        Errno::EXIST,
        Errno::MLINK,
    ];
    for errno in errnos {
        all.push(Error::Open { errno });
        for (verb, what) in [
            ("make", "the entry"),
            ("write", "inblob"),
            ("write", "privlevel"),
            ("write", "service_guid"),
            ("read", "outblob"),
        ] {
            all.push(Error::Call { step: Step { verb, what }, errno, tries: 1 });
        }
    }
    all
}

#[test]
fn every_error_is_a_finding_that_says_what_to_do() {
    for error in every() {
        let finding = error.finding();
        let expected = match error {
            Error::Worker => 70,
            Error::EntryName | Error::ServiceGuid => 78,
            _ => 71,
        };
        assert_eq!(finding.class.code(), expected, "{finding}");
        let verb = finding.next.split(' ').next().unwrap();
        assert!(verb.chars().all(|c| c.is_ascii_lowercase()), "{finding}");
        assert!(!finding.saw.is_empty() && !finding.why.is_empty() && !finding.next.ends_with('.'), "{finding}");
    }
}

#[test]
fn an_absent_configfs_names_the_pods_hostpath() {
    for error in [
        Error::open(OpenError { errno: Errno::NOENT, config: None }),
        Error::open(OpenError { errno: Errno::NOENT, config: Some(SYSFS) }),
    ] {
        assert!(error.is_absent());
        assert!(error.finding().next.contains("hostPath volume for `/sys/kernel/config`"), "{}", error.finding());
    }
}

#[test]
fn each_open_error_is_told_apart() {
    let open = |errno, config| Error::open(OpenError { errno, config });
    assert_eq!(open(Errno::NOENT, Some(super::super::CONFIGFS)), Error::NoReports);
    assert_eq!(open(Errno::NOENT, Some(0x0102_1994)), Error::NotConfigfs { f_type: 0x0102_1994 });
    assert_eq!(open(Errno::ACCESS, None), Error::Open { errno: Errno::ACCESS });
    assert_eq!(open(Errno::LOOP, Some(super::super::CONFIGFS)), Error::Open { errno: Errno::LOOP });
    assert!(!Error::NotConfigfs { f_type: 0x0102_1994 }.is_absent(), "a forged one is no absent one");
}

#[test]
fn the_same_errno_means_another_thing_at_another_step() {
    let why = |verb, what, errno| Error::Call { step: Step { verb, what }, errno, tries: 1 }.finding().why;
    assert_ne!(why("make", "the entry", Errno::NXIO), why("read", "outblob", Errno::NXIO));
    assert_ne!(why("write", "privlevel", Errno::INVAL), why("read", "outblob", Errno::INVAL));
    assert_ne!(why("make", "the entry", Errno::ACCESS), why("write", "inblob", Errno::ACCESS));
}
