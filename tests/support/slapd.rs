//! OpenLDAP's slapd with people and groups, in a folder of its own.
//!
//! The people are chosen for what their names are made of; every password is `secret of` and the `uid`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;
use tollgate::secret::Secret;

use super::{Program, folder, free_port, listening};

/// Where everything is.
pub const SUFFIX: &str = "dc=acme,dc=example";

/// Who may search.
pub const ACCOUNT: &str = "cn=tollgate,ou=services,dc=acme,dc=example";
pub const ACCOUNT_PASSWORD: &str = "search, please";

/// Names that mean something else in a filter, a DN or LDIF.
pub const ODD_NAMES: [&str; 5] =
    ["o'brien (jr) *star* \\back", "Meier, \"Hans\" +x=y", "#hash;<less>", "jürgen groß", "{user}{dn}"];

/// Group names of that kind; `ann` is in all of them.
pub const ODD_GROUPS: [&str; 4] = ["(star*) \\ +plus", "Ops, west", "größe", "say \"hi\""];

/// The server. It ends with the value.
pub struct Slapd {
    pub port: u16,
    pub tls_port: u16,
    /// The authority of its certificate, which is for 127.0.0.1 alone.
    pub ca: Arc<[u8]>,
    program: Program,
    with_tls: bool,
    folder: TempDir,
}

impl Slapd {
    pub async fn start() -> Slapd {
        Slapd::start_with(true).await
    }

    /// One that knows nothing of TLS.
    pub async fn start_without_tls() -> Slapd {
        Slapd::start_with(false).await
    }

    async fn start_with(with_tls: bool) -> Slapd {
        let folder = folder();
        let at = folder.path();
        certificates(at);
        std::fs::create_dir(at.join("db")).unwrap();
        std::fs::write(at.join("slapd.conf"), config(at, with_tls)).unwrap();
        std::fs::write(at.join("people.ldif"), people()).unwrap();
        let slapd = |arguments: &[&str]| {
            let path = format!("{}:/usr/local/sbin:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
            let output = Command::new(arguments[0]).args(&arguments[1..]).env("PATH", path).output();
            let output = output.unwrap_or_else(|error| panic!("{error}; `scripts/install.sh test` installs slapd"));
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let (conf, ldif) = (at.join("slapd.conf"), at.join("people.ldif"));
        slapd(&["slapadd", "-q", "-f", conf.to_str().unwrap(), "-b", SUFFIX, "-l", ldif.to_str().unwrap()]);
        let ca = std::fs::read(at.join("ca.pem")).unwrap().into();
        let (port, tls_port) = (free_port(), free_port());
        let program = run(at, port, tls_port, with_tls).await;
        Slapd { port, tls_port, ca, program, with_tls, folder }
    }

    /// Ends it at once, with its connections.
    pub fn kill(&mut self) {
        self.program.kill();
    }

    /// Starts it again, on the same ports.
    pub async fn restart(&mut self) {
        self.program = run(self.folder.path(), self.port, self.tls_port, self.with_tls).await;
    }

    /// Its log so far, a line for each operation: `conn=1000 op=0 BIND dn="…" method=128`.
    pub fn log(&self) -> String {
        self.program.log()
    }

    /// How often somebody tried to bind as that entry of `ou=people`, by its `uid`.
    pub fn binds_as(&self, uid: &str) -> usize {
        let wanted = format!("BIND dn=\"uid={uid},ou=people,{SUFFIX}\" method=128");
        self.log().lines().filter(|line| line.contains(&wanted)).count()
    }
}

/// The password of a user.
pub fn password_of(uid: &str) -> Secret {
    Secret::new(format!("secret of {uid}"))
}

async fn run(at: &Path, port: u16, tls_port: u16, with_tls: bool) -> Program {
    let conf = at.join("slapd.conf");
    let mut listen = format!("ldap://127.0.0.1:{port}");
    if with_tls {
        write!(listen, " ldaps://127.0.0.1:{tls_port}").unwrap();
    }
    // With a debug level it stays in the foreground and logs to its standard error.
    let command = ["slapd", "-d", "stats", "-f", conf.to_str().unwrap(), "-h", &listen];
    let mut program = Program::start("slapd", &command, &[], &at.join("slapd.log"));
    listening(port, &mut program).await;
    program
}

fn config(at: &Path, with_tls: bool) -> String {
    let at = at.display();
    let tls = format!(
        "TLSCACertificateFile {at}/ca.pem\nTLSCertificateFile {at}/server.pem\nTLSCertificateKeyFile {at}/server.key\n"
    );
    format!(
        "include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload ppolicy
pidfile {at}/slapd.pid
sizelimit 5000
{tls}
database mdb
maxsize 67108864
suffix {SUFFIX}
directory {at}/db
index uid,mail,member eq
overlay ppolicy
ppolicy_default cn=policy,{SUFFIX}
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact={ACCOUNT} read by self read by users search by * none
",
        tls = if with_tls { tls.as_str() } else { "" },
    )
}

/// An authority and a server's certificate by it, and another authority that signed nothing.
fn certificates(at: &Path) {
    let make = |name: &str, subject: &str, extensions: &str, signer: &[&str]| {
        let config = format!(
            "[req]\ndistinguished_name = name\nx509_extensions = extensions\nprompt = no\n[name]\nCN = {subject}\n[extensions]\n{extensions}\n"
        );
        std::fs::write(at.join(format!("{name}.cnf")), config).unwrap();
        let (cnf, key, pem) = (format!("{name}.cnf"), format!("{name}.key"), format!("{name}.pem"));
        let mut command = Command::new("openssl");
        command.current_dir(at).args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ]);
        command.args(["-days", "2", "-config", &cnf, "-keyout", &key, "-out", &pem]).args(signer);
        let output = command.output().unwrap_or_else(|error| panic!("openssl: {error}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let authority = "basicConstraints = critical,CA:true\nkeyUsage = critical,keyCertSign";
    make("ca", "Tollgate test authority", authority, &[]);
    let server = "basicConstraints = CA:false\nsubjectAltName = IP:127.0.0.1";
    make("server", "127.0.0.1", server, &["-CA", "ca.pem", "-CAkey", "ca.key"]);
}

/// The authority of another server.
pub fn another_authority() -> Arc<[u8]> {
    let folder = folder();
    certificates(folder.path());
    std::fs::read(folder.path().join("ca.pem")).unwrap().into()
}

/// Everything in it, as LDIF. Values go in base64, so that LDIF has no say in what they are.
fn people() -> String {
    let mut ldif = String::new();
    let mut entry = |dn: &str, attributes: &[(&str, &str)]| {
        writeln!(ldif, "dn:: {}", STANDARD.encode(dn)).unwrap();
        for (name, value) in attributes {
            writeln!(ldif, "{name}:: {}", STANDARD.encode(value)).unwrap();
        }
        ldif.push('\n');
    };
    entry(SUFFIX, &[("objectClass", "organization"), ("objectClass", "dcObject"), ("o", "Acme"), ("dc", "acme")]);
    for unit in ["services", "people", "groups", "crowd"] {
        entry(&format!("ou={unit},{SUFFIX}"), &[("objectClass", "organizationalUnit"), ("ou", unit)]);
    }
    // A lock holds only under a policy that locks.
    let policy = [
        ("objectClass", "device"),
        ("objectClass", "pwdPolicy"),
        ("cn", "policy"),
        ("pwdAttribute", "userPassword"),
        ("pwdLockout", "TRUE"),
    ];
    entry(&format!("cn=policy,{SUFFIX}"), &policy);
    let account = [
        ("objectClass", "device"),
        ("objectClass", "simpleSecurityObject"),
        ("cn", "tollgate"),
        ("userPassword", ACCOUNT_PASSWORD),
    ];
    entry(ACCOUNT, &account);

    let mut person = |uid: &str, more: &[(&str, &str)]| {
        let password = format!("secret of {uid}");
        let mut attributes = vec![("objectClass", "inetOrgPerson"), ("uid", uid), ("cn", uid), ("sn", uid)];
        if uid != "nopassword" {
            attributes.push(("userPassword", &password));
        }
        attributes.extend(more);
        entry(&dn_of(uid), &attributes);
    };
    let admins = group_dn("ops");
    let odd = group_dn("Ops, west");
    person(
        "ann",
        &[("mail", "ann@acme.example"), ("mail", "shared@acme.example"), ("seeAlso", &admins), ("seeAlso", &odd)],
    );
    person("bob", &[("mail", "shared@acme.example")]);
    for uid in ["locked", "nopassword", "many", "everywhere", "nogroups", "mallory"] {
        let lock = [("pwdAccountLockedTime", "000001010000Z")];
        person(uid, if uid == "locked" { &lock } else { &[] });
    }
    for uid in ODD_NAMES {
        person(uid, &[]);
    }

    let mut group = |dn: &str, cn: &str, members: &[String]| {
        let mut attributes = vec![("objectClass", "groupOfNames"), ("cn", cn)];
        attributes.extend(members.iter().map(|member| ("member", member.as_str())));
        entry(dn, &attributes);
    };
    let ann = dn_of("ann");
    group(&group_dn("ops"), "ops", &[ann.clone(), dn_of("bob")]);
    for cn in ODD_GROUPS {
        group(&group_dn(cn), cn, std::slice::from_ref(&ann));
    }
    for uid in ODD_NAMES {
        group(&group_dn(&format!("of {uid}")), &format!("of {uid}"), &[dn_of(uid)]);
    }
    // bob is in `inner`, that in `middle`, that in `outer`; and in one of two that are in each other.
    group(&group_dn("inner"), "inner", &[dn_of("bob")]);
    group(&group_dn("middle"), "middle", &[group_dn("inner")]);
    group(&group_dn("outer"), "outer", &[group_dn("middle")]);
    group(&group_dn("loop-a"), "loop-a", &[dn_of("bob"), group_dn("loop-b")]);
    group(&group_dn("loop-b"), "loop-b", &[group_dn("loop-a")]);
    for number in 0..1_001 {
        let cn = format!("crowd-{number:04}");
        let mut members = vec![dn_of("everywhere")];
        if number < 300 {
            members.push(dn_of("many"));
        }
        group(&format!("cn={cn},ou=crowd,{SUFFIX}"), &cn, &members);
    }
    ldif
}

/// The DN of a user.
pub fn dn_of(uid: &str) -> String {
    format!("uid={},ou=people,{SUFFIX}", escaped(uid))
}

/// The DN of a group.
pub fn group_dn(cn: &str) -> String {
    format!("cn={},ou=groups,{SUFFIX}", escaped(cn))
}

/// Every octet in hexadecimal, which is right whatever it is (RFC 4514, section 2.4), and not how the agent does it.
fn escaped(value: &str) -> String {
    value.bytes().fold(String::new(), |mut text, byte| {
        write!(text, "\\{byte:02x}").unwrap();
        text
    })
}
