//! Names, passwords and groups, against a real slapd and against servers that are broken on purpose.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tollgate::clock::Clock;
use tollgate::identity::ldap::{
    Account, Attempt, Basic, BasicCacheSettings, DnTemplate, FilterTemplate, GroupName, GroupSource, Ldap, LdapError,
    LdapSettings, Person, Refusal, Scope, Security, Server, UserAttributes, Users,
};
use tollgate::secret::Secret;

use crate::support::slapd::{
    ACCOUNT, ACCOUNT_PASSWORD, ODD_GROUPS, ODD_NAMES, SUFFIX, Slapd, another_authority, password_of,
};
use crate::support::{eventually, free_port};

fn settings(port: u16) -> LdapSettings {
    LdapSettings {
        servers: vec![Server { host: "127.0.0.1".to_owned(), port }],
        security: Security::Plain,
        ca: None,
        account: Some(Account { dn: ACCOUNT.to_owned(), password: Secret::new(ACCOUNT_PASSWORD) }),
        users: Users::Search {
            base: format!("ou=people,{SUFFIX}"),
            scope: Scope::Subtree,
            filter: filter("(uid={user})"),
        },
        attributes: UserAttributes { user: "uid".to_owned(), email: "mail".to_owned(), name: "cn".to_owned() },
        groups: Some(groups("(member={dn})", 0)),
        connections_max: 4,
        connect_timeout: Duration::from_secs(5),
        operation_timeout: Duration::from_secs(5),
        cache: BasicCacheSettings::default(),
    }
}

fn filter(text: &str) -> FilterTemplate {
    FilterTemplate::parse(text).unwrap()
}

fn groups(text: &str, nested: u8) -> GroupSource {
    GroupSource::Search {
        base: SUFFIX.to_owned(),
        scope: Scope::Subtree,
        filter: filter(text),
        name: GroupName::Attribute("cn".to_owned()),
        nested,
    }
}

fn template() -> Users {
    Users::Template(DnTemplate::parse(&format!("uid={{user}},ou=people,{SUFFIX}")).unwrap())
}

async fn authenticate(ldap: &Ldap, user: &str, password: &Secret) -> Result<Person, LdapError> {
    ldap.authenticate(user, password, Attempt::New, Clock::system().now()).await
}

/// A failure in short: what it is, without what it says.
fn kind(error: &LdapError) -> String {
    let text = format!("{error:?}");
    text.split([' ', '(']).next().unwrap().to_owned()
}

#[tokio::test]
async fn a_password_is_right_or_wrong_whatever_the_name_is_made_of() {
    let slapd = Slapd::start().await;
    let searched = Ldap::new(settings(slapd.port)).unwrap();
    let by_template = Ldap::new(LdapSettings { users: template(), ..settings(slapd.port) }).unwrap();
    let as_user = Ldap::new(LdapSettings { users: template(), account: None, ..settings(slapd.port) }).unwrap();

    for ldap in [&searched, &by_template, &as_user] {
        for user in ["ann", "nogroups"].into_iter().chain(ODD_NAMES) {
            let person = authenticate(ldap, user, &password_of(user)).await.unwrap_or_else(|e| panic!("{user}: {e:?}"));
            assert_eq!((person.user.as_str(), person.name.as_str()), (user, user));
            let wrong = authenticate(ldap, user, &Secret::new("wrong")).await;
            assert!(matches!(wrong, Err(LdapError::Refused(Refusal::Bind(49)))), "{user}: {wrong:?}");
        }
        let ann = authenticate(ldap, "ANN", &password_of("ann")).await.unwrap();
        assert_eq!((ann.user.as_str(), ann.email.as_str()), ("ann", "ann@acme.example"), "as the directory writes it");

        for user in ["*", "a*", "ann)(uid=*", "*)(uid=*))(|(uid=*", "ann,ou=people", "ann,ou=people,dc=acme,dc=example"]
            .into_iter()
            .chain(["\\61nn", "ann\0", "uid=ann", "ann+cn=ann", "", " ann", "ann ", "nobody", "locked", "nopassword"])
        {
            for password in [password_of("ann"), password_of(user), Secret::new("wrong")] {
                let refused = authenticate(ldap, user, &password).await.expect_err(user);
                assert!(matches!(refused, LdapError::Refused(_)), "{user:?}: {refused:?}");
                assert_eq!(refused.to_string(), LdapError::Refused(Refusal::UnknownUser).to_string());
            }
        }
        let empty = authenticate(ldap, "ann", &Secret::new("")).await;
        assert!(matches!(empty, Err(LdapError::Refused(Refusal::EmptyPassword))), "{empty:?}");
        let long = authenticate(ldap, "ann", &Secret::new("x".repeat(1025))).await;
        assert!(matches!(long, Err(LdapError::Refused(Refusal::Unusable))), "{long:?}");
    }
    // slapd says so where it is asked to bind with a DN and no password.
    assert!(!slapd.log().contains("unauthenticated bind"), "no empty password is sent");
}

#[tokio::test]
async fn two_entries_prove_nobody() {
    let slapd = Slapd::start().await;
    let users = Users::Search {
        base: SUFFIX.to_owned(),
        scope: Scope::Subtree,
        filter: filter("(&(objectClass=inetOrgPerson)(|(uid={user})(mail={user})))"),
    };
    let ldap = Ldap::new(LdapSettings { users, ..settings(slapd.port) }).unwrap();
    for user in ["ann", "ann@acme.example"] {
        assert_eq!(authenticate(&ldap, user, &password_of("ann")).await.unwrap().user, "ann");
    }
    let shared = authenticate(&ldap, "shared@acme.example", &password_of("ann")).await;
    assert!(matches!(shared, Err(LdapError::Refused(Refusal::Ambiguous))), "{shared:?}");
    assert_eq!((slapd.binds_as("ann"), slapd.binds_as("bob")), (2, 0));
}

#[tokio::test]
async fn groups_come_as_the_directory_has_them() {
    let slapd = Slapd::start().await;
    let with = |groups: Option<GroupSource>| Ldap::new(LdapSettings { groups, ..settings(slapd.port) }).unwrap();
    let named = |names: &[&str]| {
        let mut names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        names.sort();
        names
    };
    let all_of_ann = named(&[&["ops"], &ODD_GROUPS[..]].concat());
    let now = Clock::system().now();

    let attribute = |name| Some(GroupSource::Attribute { attribute: "seeAlso".to_owned(), name });
    let by_dn = GroupSource::Search {
        base: format!("ou=groups,{SUFFIX}"),
        scope: Scope::One,
        filter: filter("(member={dn})"),
        name: GroupName::Dn,
        nested: 0,
    };
    for (source, user, expected) in [
        (None, "ann", vec![]),
        (Some(groups("(member={dn})", 0)), "ann", all_of_ann),
        (
            Some(groups("(&(objectClass=groupOfNames)(member=uid={user},ou=people,dc=acme,dc=example))", 0)),
            "bob",
            named(&["inner", "loop-a", "ops"]),
        ),
        (Some(groups("(member={dn})", 0)), "bob", named(&["inner", "loop-a", "ops"])),
        (Some(groups("(member={dn})", 1)), "bob", named(&["inner", "loop-a", "loop-b", "middle", "ops"])),
        (Some(groups("(member={dn})", 8)), "bob", named(&["inner", "loop-a", "loop-b", "middle", "ops", "outer"])),
        (Some(groups("(member={dn})", 8)), "nogroups", vec![]),
        (attribute(GroupName::FirstValue), "ann", named(&["ops", "Ops, west"])),
        (Some(by_dn), "bob", named(&["cn=inner", "cn=loop-a", "cn=ops"])),
        (attribute(GroupName::Dn), "nogroups", vec![]),
    ] {
        let ldap = with(source.clone());
        let short = |groups: Vec<String>| -> Vec<String> {
            let suffix = format!(",ou=groups,{SUFFIX}");
            groups.into_iter().map(|group| group.strip_suffix(&suffix).map_or(group.clone(), str::to_owned)).collect()
        };
        let alone = ldap.groups_of(user, now).await.unwrap();
        assert_eq!(short(alone.clone()), expected, "{source:?}");
        assert_eq!(authenticate(&ldap, user, &password_of(user)).await.unwrap().groups, alone);
    }
    for user in ODD_NAMES {
        let ldap = with(Some(groups("(member={dn})", 2)));
        assert_eq!(ldap.groups_of(user, now).await.unwrap(), [format!("of {user}")]);
    }

    let ldap = with(Some(groups("(member={dn})", 2)));
    assert_eq!(ldap.groups_of("many", now).await.unwrap().len(), 300);
    // Unknown groups are not no groups.
    for (user, expected) in [("everywhere", "TooManyGroups"), ("nobody", "Refused"), ("*", "Refused"), ("", "Refused")]
    {
        assert_eq!(kind(&ldap.groups_of(user, now).await.expect_err(user)), expected, "{user}");
    }
    let too_many = authenticate(&ldap, "everywhere", &password_of("everywhere")).await;
    assert!(matches!(too_many, Err(LdapError::TooManyGroups { .. })), "{too_many:?}");
    let nowhere = GroupSource::Search {
        base: format!("ou=nowhere,{SUFFIX}"),
        scope: Scope::Subtree,
        filter: filter("(member={dn})"),
        name: GroupName::Dn,
        nested: 0,
    };
    let failed = with(Some(nowhere)).groups_of("ann", now).await;
    assert!(matches!(failed, Err(LdapError::Answer { code: 32, .. })), "{failed:?}");

    let template = Ldap::new(LdapSettings { users: template(), ..settings(slapd.port) }).unwrap();
    assert_eq!(template.groups_of("bob", now).await.unwrap(), named(&["inner", "loop-a", "ops"]));
    assert_eq!(kind(&template.groups_of("nobody", now).await.unwrap_err()), "Refused");
    let nobody = LdapSettings { users: self::template(), account: None, ..settings(slapd.port) };
    assert_eq!(kind(&Ldap::new(nobody).unwrap().groups_of("bob", now).await.unwrap_err()), "NoAccount");
}

/// slapd itself looks past width and composition, and a matching rule of the operator's past more.
#[tokio::test]
async fn whom_the_directory_takes_for_another_has_no_groups() {
    let slapd = Slapd::start().await;
    let searching =
        |text: &str| Users::Search { base: format!("ou=people,{SUFFIX}"), scope: Scope::Subtree, filter: filter(text) };
    let now = Clock::system().now();
    let by_mail = "(|(uid={user})(mail={user})(mail={user}@acme.example))";
    for (users, user, found) in [
        (searching("(uid={user})"), "ann", true),
        (searching("(uid={user})"), "Ann", true),
        (searching("(uid={user})"), "ａｎｎ", false),
        (template(), "ANN", true),
        (template(), "ａｎｎ", false),
        (searching(by_mail), "ann@acme.example", true),
        (searching(by_mail), "Ann@Acme.example", true),
        (searching("(mail={user}@acme.example)"), "ann", true),
        // Stand-ins for a server that compares as it likes: approximately, or by a part.
        (searching("(uid~=ann)"), "änn", false),
        (searching("(&(uid=*)(uid=ann)(!(cn={user})))"), "änn", false),
        (searching("(mail={user}*acme.example)"), "an", false),
        (searching("(mail={user}*acme.example)"), "ann", true),
    ] {
        let ldap = Ldap::new(LdapSettings { users: users.clone(), ..settings(slapd.port) }).unwrap();
        match ldap.groups_of(user, now).await {
            Ok(groups) => assert!(found && groups.contains(&"ops".to_owned()), "{users:?} {user}: {groups:?}"),
            Err(error) => assert!(!found && kind(&error) == "Refused", "{users:?} {user}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn tls_is_checked_and_never_given_up() {
    let slapd = Slapd::start().await;
    let plain = Slapd::start_without_tls().await;
    let (ca, other) = (Some(Arc::clone(&slapd.ca)), Some(another_authority()));
    for (security, port, host, ca, expected) in [
        (Security::Tls, slapd.tls_port, "127.0.0.1", &ca, None),
        (Security::StartTls, slapd.port, "127.0.0.1", &ca, None),
        (Security::Tls, slapd.tls_port, "127.0.0.1", &other, Some("Unreachable")),
        (Security::StartTls, slapd.port, "127.0.0.1", &other, Some("Unreachable")),
        (Security::Tls, slapd.tls_port, "127.0.0.1", &None, Some("Unreachable")),
        (Security::Tls, slapd.tls_port, "localhost", &ca, Some("Unreachable")),
        (Security::Tls, slapd.port, "127.0.0.1", &ca, Some("Unreachable")),
        (Security::StartTls, plain.port, "127.0.0.1", &ca, Some("StartTlsRefused")),
        (Security::StartTls, slapd.tls_port, "127.0.0.1", &ca, Some("Lost")),
    ] {
        let servers = vec![Server { host: host.to_owned(), port }];
        let ldap = Ldap::new(LdapSettings { servers, security, ca: ca.clone(), ..settings(port) }).unwrap();
        let answered = authenticate(&ldap, "ann", &password_of("ann")).await;
        let failed = answered.as_ref().err();
        assert_eq!(failed.map(kind).as_deref(), expected, "{security:?} {host} {failed:?}");
        assert!(failed.is_none_or(|error| !error.is_refusal()));
    }
    assert!(!plain.log().contains("BIND"), "nothing is said to a server without TLS");
    let none = LdapSettings { security: Security::Tls, ca: Some(Arc::from(*b"nothing")), ..settings(1) };
    assert!(matches!(Ldap::new(none), Err(LdapError::Authorities { .. })));
}

#[tokio::test]
async fn an_account_that_is_refused_is_our_failure() {
    let slapd = Slapd::start().await;
    let account = Some(Account { dn: ACCOUNT.to_owned(), password: Secret::new("old") });
    let ldap = Ldap::new(LdapSettings { account, ..settings(slapd.port) }).unwrap();
    let clock = Clock::by_hand(1_800_000_000);
    let ask = async || {
        let answered = ldap.authenticate("ann", &password_of("ann"), Attempt::New, clock.now()).await;
        kind(&answered.unwrap_err())
    };
    for _ in 0..5 {
        assert_eq!(ask().await, "AccountRefused");
    }
    let tried = || slapd.log().lines().filter(|line| line.contains("BIND") && line.contains("cn=tollgate")).count();
    assert_eq!(tried(), 1, "a directory locks accounts that try too often");
    clock.advance(Duration::from_secs(31));
    assert_eq!(ask().await, "AccountRefused");
    assert_eq!(tried(), 2);
}

#[tokio::test]
async fn nobody_searches_with_the_rights_of_who_logged_in_before() {
    let slapd = Slapd::start().await;
    let searched = Ldap::new(LdapSettings { connections_max: 1, ..settings(slapd.port) }).unwrap();
    let as_user = LdapSettings { users: template(), account: None, connections_max: 1, ..settings(slapd.port) };
    let as_user = Ldap::new(as_user).unwrap();
    let passwords =
        [("ann", "secret of ann"), ("bob", "wrong"), ("mallory", "secret of mallory"), ("bob", "secret of bob")];
    for ldap in [&searched, &as_user] {
        for (user, password) in passwords {
            let answered = authenticate(ldap, user, &Secret::new(password)).await;
            assert_eq!(answered.is_ok(), password != "wrong", "{user}: {answered:?}");
        }
    }
    // Who was bound on each connection when it searched.
    let mut bound = std::collections::HashMap::new();
    let mut searches = Vec::new();
    for line in slapd.log().lines() {
        let Some(connection) = line.split_whitespace().find(|word| word.starts_with("conn=")) else { continue };
        let dn =
            |line: &str| line.split("dn=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("").to_owned();
        if line.contains(" BIND dn=") && line.contains("method=128") {
            bound.insert(connection.to_owned(), (dn(line), false));
        } else if line.contains("RESULT tag=97 err=0") {
            bound.get_mut(connection).unwrap().1 = true;
        } else if line.contains(" SRCH base=") {
            let base = line.split("base=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("").to_owned();
            searches.push((bound[connection].clone(), base));
        }
    }
    let (by_account, by_users): (Vec<_>, Vec<_>) = searches.into_iter().partition(|((dn, _), _)| dn == ACCOUNT);
    assert_eq!((by_account.len(), by_users.len()), (4 + 3, 3 * 2), "a user and groups each time");
    for ((dn, succeeded), base) in &by_users {
        assert!(*succeeded && (base == dn || base == SUFFIX), "{dn} searched {base}");
    }
}

#[tokio::test]
async fn a_directory_that_comes_back_is_asked_again() {
    let mut slapd = Slapd::start().await;
    let ldap = Ldap::new(settings(slapd.port)).unwrap();
    let ask = async || authenticate(&ldap, "ann", &password_of("ann")).await;
    ask().await.unwrap();
    assert!(ldap.failure().is_none());

    // Gone and back before anybody asks: the connections that were kept are dead, and nobody notices.
    slapd.kill();
    slapd.restart().await;
    ask().await.unwrap();

    slapd.kill();
    let failed = ask().await.unwrap_err();
    assert!(!failed.is_refusal(), "{failed:?}");
    assert!(!ask().await.unwrap_err().is_refusal(), "and a moment later");
    assert!(ldap.failure().is_some());
    slapd.restart().await;
    eventually("the directory is asked again", || async { ask().await.ok() }).await;
    assert!(ldap.failure().is_none());
}

#[tokio::test]
async fn a_question_lost_with_a_kept_connection_is_asked_again_and_with_a_new_one_not() {
    let slapd = Slapd::start().await;
    let wire = Wire::start(slapd.port).await;
    let ldap = Ldap::new(settings(wire.port)).unwrap();
    wire.cut();
    let lost = authenticate(&ldap, "ann", &password_of("ann")).await.unwrap_err();
    assert_eq!(kind(&lost), "Lost", "{lost:?}");

    let later = Clock::system().now().later(Duration::from_secs(2));
    let ask = async || ldap.authenticate("ann", &password_of("ann"), Attempt::New, later).await;
    ask().await.unwrap();
    let binds = slapd.binds_as("ann");
    wire.cut();
    ask().await.unwrap();
    assert!(!wire.cut.load(Ordering::SeqCst), "a question was lost");
    assert_eq!(slapd.binds_as("ann"), binds + 1);
}

#[tokio::test]
async fn the_next_server_is_asked_where_the_first_is_down() {
    let slapd = Slapd::start().await;
    let server = |port| Server { host: "127.0.0.1".to_owned(), port };
    let servers = vec![server(free_port()), server(slapd.port)];
    let ldap = Ldap::new(LdapSettings { servers, ..settings(0) }).unwrap();
    authenticate(&ldap, "ann", &password_of("ann")).await.unwrap();
}

#[tokio::test]
async fn a_directory_that_stalls_is_given_up_and_bounds_who_waits() {
    let slapd = Slapd::start().await;
    let wire = Wire::start(slapd.port).await;
    let operation_timeout = Duration::from_millis(300);
    let narrow = LdapSettings { connections_max: 1, operation_timeout, ..settings(wire.port) };
    let ldap = Arc::new(Ldap::new(narrow).unwrap());
    authenticate(&ldap, "ann", &password_of("ann")).await.unwrap();

    wire.stall(true);
    let failed = authenticate(&ldap, "ann", &password_of("ann")).await.unwrap_err();
    assert_eq!(kind(&failed), "Timeout", "{failed:?}");
    let many: Vec<_> = (0..400)
        .map(|n| {
            let ldap = Arc::clone(&ldap);
            // A name of its own, so that it is not told to wait for its own sake.
            tokio::spawn(async move { authenticate(&ldap, &format!("x{n}"), &Secret::new("x")).await.unwrap_err() })
        })
        .collect();
    let mut busy = 0;
    for failed in many {
        let failed = failed.await.unwrap();
        assert!(!failed.is_refusal(), "{failed:?}");
        busy += usize::from(kind(&failed) == "Busy");
    }
    // One has the connection and 256 may wait for it; the others are told at once.
    assert!(busy >= 400 - 257, "{busy}");

    wire.stall(false);
    let person = eventually("an answer", || async { authenticate(&ldap, "bob", &password_of("bob")).await.ok() }).await;
    assert_eq!(person.user, "bob", "and not the answer to a question that nobody waits for any more");
}

#[tokio::test]
async fn what_is_no_ldap_is_a_failure_and_nothing_more() {
    let nested = |levels: usize| {
        let mut message = Vec::new();
        let mut len = 0_usize;
        for _ in 0..levels {
            let length: Vec<u8> = match u8::try_from(len) {
                Ok(short @ ..0x80) => vec![short],
                _ => [&[0x83], &len.to_be_bytes()[5..]].concat(),
            };
            len += 1 + length.len();
            message.push([&[0x30], &length[..]].concat());
        }
        message.into_iter().rev().flatten().collect::<Vec<u8>>()
    };
    let done = |tag: u8, code: u8| vec![0x30, 12, 2, 1, 1, tag, 7, 10, 1, code, 4, 0, 4, 0];
    let entry = [0x30, 9, 2, 1, 1, 0x64, 4, 4, 0, 0x30, 0];
    for (what, answer, starttls, expected) in [
        ("nothing", vec![], false, "Lost"),
        ("HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), false, "Garbage"),
        ("a mail server", b"220 mail.example ESMTP\r\n".to_vec(), true, "Garbage"),
        ("20,000 levels", nested(20_000), false, "Garbage"),
        ("20,000 levels before TLS", nested(20_000), true, "Garbage"),
        ("4 GiB", vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 2, 1, 1], false, "Garbage"),
        ("an indefinite length", vec![0x30, 0x80, 2, 1, 1], false, "Garbage"),
        ("half a message", vec![0x30, 12, 2, 1, 1, 0x61], false, "Lost"),
        ("entries for a bind", entry.to_vec(), false, "Garbage"),
        ("another's answer", [&[0x30, 12, 2, 1, 9], &done(0x61, 0)[5..]].concat(), false, "Garbage"),
        ("a notice of disconnection", [&[0x30, 12, 2, 1, 0], &done(0x78, 52)[5..]].concat(), false, "Lost"),
        ("busy", done(0x61, 51), false, "AccountRefused"),
        ("StartTLS and more", [done(0x78, 0), done(0x61, 0)].concat(), true, "Garbage"),
        ("StartTLS refused", done(0x78, 2), true, "StartTlsRefused"),
        ("StartTLS and no TLS", done(0x78, 0), true, "Unreachable"),
        ("a bind for an answer to StartTLS", done(0x61, 0), true, "Garbage"),
    ] {
        let port = says(answer.clone()).await;
        let security = if starttls { Security::StartTls } else { Security::Plain };
        let ldap = Ldap::new(LdapSettings { security, ..settings(port) }).unwrap();
        let failed = authenticate(&ldap, "ann", &password_of("ann")).await.expect_err(what);
        assert_eq!(kind(&failed), expected, "{what}: {failed:?}");
    }

    // Entries without end, as an answer to a search.
    let flood: Vec<u8> = std::iter::repeat_n([0x30, 9, 2, 1, 2, 0x64, 4, 4, 0, 0x30, 0], 100).flatten().collect();
    let port = says([done(0x61, 0), flood].concat()).await;
    let failed = authenticate(&Ldap::new(settings(port)).unwrap(), "ann", &password_of("ann")).await.unwrap_err();
    assert_eq!(kind(&failed), "Garbage", "{failed:?}");
}

#[tokio::test]
async fn a_credential_is_asked_about_once() {
    let slapd = Slapd::start().await;
    let basic = Basic::new(Arc::new(Ldap::new(settings(slapd.port)).unwrap())).unwrap();
    let clock = Clock::by_hand(1_800_000_000);
    let ask = async |password: &str| basic.authenticate("ann", &Secret::new(password), None, clock.now()).await;

    let many: Vec<_> = (0..100)
        .map(|_| {
            let (basic, now) = (basic.clone(), clock.now());
            tokio::spawn(async move { basic.authenticate("ann", &password_of("ann"), None, now).await })
        })
        .collect();
    for answered in many {
        assert_eq!(answered.await.unwrap().unwrap().user, "ann");
    }
    assert_eq!(slapd.binds_as("ann"), 1, "a hundred at once");
    for (after, password, binds) in [
        (59, "secret of ann", 1),
        (1, "secret of ann", 2),
        (0, "wrong", 3),
        (4, "wrong", 3),
        (1, "wrong", 4),
        (0, "secret of ann", 4),
        (60, "secret of ann", 5),
    ] {
        clock.advance(Duration::from_secs(after));
        assert_eq!(ask(password).await.is_ok(), password != "wrong");
        assert_eq!(slapd.binds_as("ann"), binds, "{password} after {after} s");
        let found = basic.find("ann", &Secret::new(password), clock.now()).unwrap();
        assert_eq!(found.is_ok(), password != "wrong");
    }
}

#[tokio::test]
async fn guessing_is_slowed_and_locks_nobody_out() {
    let slapd = Slapd::start().await;
    let basic = Basic::new(Arc::new(Ldap::new(settings(slapd.port)).unwrap())).unwrap();
    let clock = Clock::by_hand(1_800_000_000);
    let ask =
        async |user: &str, password: &str| basic.authenticate(user, &Secret::new(password), None, clock.now()).await;
    ask("ann", "secret of ann").await.unwrap();

    for guess in 0..10 {
        // Whatever the case of the name.
        let user = if guess % 2 == 0 { "ann" } else { "ANN" };
        assert_eq!(kind(&ask(user, &format!("guess {guess}")).await.unwrap_err()), "Refused");
    }
    assert_eq!(slapd.binds_as("ann"), 11);
    for guess in 0..50 {
        let refused = ask("aNN", &format!("another {guess}")).await.unwrap_err();
        assert!(matches!(refused, LdapError::Throttled { .. }) && refused.is_refusal(), "{refused:?}");
    }
    assert_eq!(slapd.binds_as("ann"), 11, "the directory is not asked");
    ask("bob", "secret of bob").await.unwrap();

    // Ann herself gets in throughout: remembered, and a minute later by a bind.
    ask("ann", "secret of ann").await.unwrap();
    clock.advance(Duration::from_secs(61));
    for guess in 0..20 {
        let _ = ask("ann", &format!("third {guess}")).await;
    }
    assert_eq!(kind(&ask("ann", "fourth").await.unwrap_err()), "Throttled");
    ask("ann", "secret of ann").await.unwrap();
}

/// By the eleventh password nobody learns which names there are, nor which of them are one person's.
#[tokio::test]
async fn guessing_tells_no_names() {
    let slapd = Slapd::start().await;
    let users = Users::Search {
        base: format!("ou=people,{SUFFIX}"),
        scope: Scope::Subtree,
        filter: filter("(|(uid={user})(mail={user}))"),
    };
    let ldap = Ldap::new(LdapSettings { users, ..settings(slapd.port) }).unwrap();
    let now = Clock::by_hand(1_800_000_000).now();
    let asked =
        || slapd.log().lines().filter(|line| line.contains("method=128") || line.contains(" SRCH base=")).count();
    let ask = async |user: &str, password: String| {
        let refused = ldap.authenticate(user, &Secret::new(password), Attempt::New, now).await.unwrap_err();
        kind(&refused)
    };
    // The search account binds.
    ask("bob", "first".to_owned()).await;
    for user in ["ann", "nobody"] {
        for guess in 0..12 {
            let before = asked();
            let refused = ask(user, format!("guess {guess}")).await;
            let (expected, questions) = if guess < 10 { ("Refused", 2) } else { ("Throttled", 0) };
            assert_eq!((refused.as_str(), asked() - before), (expected, questions), "{user} {guess}");
        }
    }
    for user in ["ann@acme.example", "nobody@acme.example"] {
        let before = asked();
        ask(user, "once more".to_owned()).await;
        assert_eq!(asked() - before, 2, "{user}");
    }
    assert_eq!(slapd.binds_as("ann"), 10);
}

#[tokio::test]
async fn strangers_leave_a_connection_to_the_known() {
    let slapd = Slapd::start().await;
    let wire = Wire::start(slapd.port).await;
    let ldap = Arc::new(Ldap::new(LdapSettings { connections_max: 2, ..settings(wire.port) }).unwrap());
    let known = async |user: &str| {
        ldap.authenticate(user, &password_of(user), Attempt::Known, Clock::system().now()).await.unwrap()
    };
    // Both connections are there.
    tokio::join!(known("ann"), known("mallory"));
    wire.stall(true);
    let strangers: Vec<_> = (0..100)
        .map(|n| {
            let ldap = Arc::clone(&ldap);
            tokio::spawn(async move { authenticate(&ldap, &format!("x{n}"), &Secret::new("x")).await })
        })
        .collect();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let known = tokio::spawn({
        let ldap = Arc::clone(&ldap);
        async move { ldap.authenticate("bob", &password_of("bob"), Attempt::Known, Clock::system().now()).await }
    });
    // Its question is on its way while all but one of the strangers wait in line.
    eventually("the known one is asked about", || async { slapd.log().contains("filter=\"(uid=bob)\"").then_some(()) })
        .await;
    wire.stall(false);
    assert_eq!(known.await.unwrap().unwrap().user, "bob");
    for stranger in strangers {
        assert!(stranger.await.unwrap().is_err());
    }
}

/// A wire to a server that can be made to carry nothing.
struct Wire {
    port: u16,
    stalled: Arc<AtomicBool>,
    cut: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Wire {
    async fn start(server: u16) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stalled = Arc::new(AtomicBool::new(false));
        let cut = Arc::new(AtomicBool::new(false));
        let (flag, cut_here) = (Arc::clone(&stalled), Arc::clone(&cut));
        let task = tokio::spawn(async move {
            let mut wires = tokio::task::JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                let cut = Arc::clone(&cut_here);
                wires.spawn(async move {
                    let mut buffer = [0; 4096];
                    loop {
                        let read = from_client.read(&mut buffer).await?;
                        if read == 0 || cut.swap(false, Ordering::SeqCst) {
                            // The server sees the end, closes, and the other half passes that on.
                            return Ok(());
                        }
                        to_server.write_all(&buffer[..read]).await?;
                    }
                });
                let flag = Arc::clone(&flag);
                wires.spawn(async move {
                    let mut buffer = [0; 4096];
                    loop {
                        let read = from_server.read(&mut buffer).await?;
                        while flag.load(Ordering::SeqCst) {
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                        if read == 0 {
                            return to_client.shutdown().await;
                        }
                        to_client.write_all(&buffer[..read]).await?;
                    }
                });
            }
        });
        Wire { port, stalled, cut, task }
    }

    fn stall(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::SeqCst);
    }

    /// Whoever asks next loses the question and the connection.
    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server that waits for a word, says this whatever it was, and closes. It serves one connection.
async fn says(answer: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut heard = [0; 4096];
        let _ = client.read(&mut heard).await;
        let _ = client.write_all(&answer).await;
        let _ = client.shutdown().await;
        // Until the client has gone too, so that what was said is not lost to a reset.
        while client.read(&mut heard).await.is_ok_and(|read| read > 0) {}
    });
    port
}
