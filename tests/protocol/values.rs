//! What values and variables become on their way between HAProxy and an agent, and ACKs in any order.

use std::sync::Mutex;

use bytes::BytesMut;
use futures_util::future::join_all;
use tollgate::spop::{Action, Scope, TypedData};

use crate::each_line;
use crate::support::scripted::{Question, Script, Scripted, Step, actions};
use crate::support::web::{self, Client, Reply};
use crate::support::written::{Settings, Written};

each_line! {
    haproxy_sends_each_type_as_it_is,
    haproxy_takes_each_type_of_an_ack,
    variables_live_as_long_as_their_scope,
    acks_may_come_in_any_order,
}

async fn haproxy_sends_each_type_as_it_is(line: &str, program: &str) {
    // An argument of the message, and what it is on the wire.
    let rows = [
        ("bool(true)", TypedData::Bool(true)),
        ("bool(false)", TypedData::Bool(false)),
        ("int(0)", TypedData::Int64(0)),
        ("int(239)", TypedData::Int64(239)),
        ("int(240)", TypedData::Int64(240)),
        ("int(2287)", TypedData::Int64(2287)),
        ("int(2288)", TypedData::Int64(2288)),
        ("int(-1)", TypedData::Int64(-1)),
        ("int(9223372036854775807)", TypedData::Int64(i64::MAX)),
        ("ipv4(192.0.2.7)", TypedData::Ipv4([192, 0, 2, 7].into())),
        ("ipv6(2001:db8::1)", TypedData::Ipv6("2001:db8::1".parse().unwrap())),
        ("src", TypedData::Ipv4([127, 0, 0, 1].into())),
        ("str(x)", TypedData::Str(b"x")),
        ("req.fhdr(x-some)", TypedData::Str(b"one, two")),
        ("req.fhdr(x-empty)", TypedData::Str(b"")),
        ("req.fhdr(x-missing)", TypedData::Null),
        ("var(txn.never_set)", TypedData::Null),
        ("ssl_c_der", TypedData::Null),
        ("bin(00ff80)", TypedData::Bin(&[0, 0xff, 0x80])),
        ("method", TypedData::Str(b"GET")),
        ("ssl_fc", TypedData::Bool(false)),
    ];
    let mut messages = "spoe-message values\n".to_owned();
    for (index, (fetch, _)) in rows.iter().enumerate() {
        messages.push_str(&format!(" args a{index}={fetch}\n"));
    }
    messages.push_str(" args str(unnamed)\nspoe-group ask\n messages values\n");
    let settings = Settings {
        agent: " groups ask".to_owned(),
        messages,
        front: " http-request send-spoe-group written ask\n http-request return status 200".to_owned(),
        ..Settings::default()
    };
    let agent = Scripted::start(Script::answering(|question| vec![Step::Write(question.ack(&[]))])).await;
    let haproxy = Written::start(program, agent.port, &settings).await;
    let reply = web::get(haproxy.port, "/", &[("X-Some", "one, two"), ("X-Empty", "")]).await.unwrap();
    assert_eq!(reply.status, 200);
    let asked = agent.take_asked();
    assert_eq!(asked.len(), 1);
    let wrong: Vec<_> = rows
        .iter()
        .enumerate()
        .map(|(index, (fetch, expected))| (fetch, Some(*expected), asked[0].argument(&format!("a{index}"))))
        .filter(|(_, expected, seen)| expected != seen)
        .collect();
    assert!(wrong.is_empty(), "HAProxy {line}: fetch, expected, seen: {wrong:?}");
    assert_eq!(asked[0].argument(""), Some(TypedData::Str(b"unnamed")));
}

/// A value of an ACK as bytes, what HAProxy sends when asked for the variable, and what it prints.
type Taken = (&'static str, Vec<u8>, TypedData<'static>, &'static str);

fn encoded(value: TypedData<'_>) -> Vec<u8> {
    let mut out = BytesMut::new();
    value.encode(&mut out);
    out.to_vec()
}

fn taken() -> Vec<Taken> {
    let long = TypedData::Str(&[b'x'; 300]);
    vec![
        ("null", encoded(TypedData::Null), TypedData::Null, ""),
        ("true", encoded(TypedData::Bool(true)), TypedData::Bool(true), "1"),
        ("false", encoded(TypedData::Bool(false)), TypedData::Bool(false), "0"),
        ("true with another flag is false", vec![0x31], TypedData::Bool(false), "0"),
        ("int32", encoded(TypedData::Int32(300)), TypedData::Int64(300), "300"),
        ("negative int32", encoded(TypedData::Int32(-7)), TypedData::Int64(-7), "-7"),
        // What an agent sends that does not extend the sign.
        (
            "int32 of 32 bits",
            [&[2][..], &encoded(TypedData::UInt32(0xffff_fff9))[1..]].concat(),
            TypedData::Int64(4_294_967_289),
            "4294967289",
        ),
        ("uint32", encoded(TypedData::UInt32(u32::MAX)), TypedData::Int64(4_294_967_295), "4294967295"),
        ("int64", encoded(TypedData::Int64(i64::MAX)), TypedData::Int64(i64::MAX), "9223372036854775807"),
        ("negative int64", encoded(TypedData::Int64(i64::MIN)), TypedData::Int64(i64::MIN), "-9223372036854775808"),
        ("uint64", encoded(TypedData::UInt64(5)), TypedData::Int64(5), "5"),
        ("uint64 beyond int64", encoded(TypedData::UInt64(u64::MAX)), TypedData::Int64(-1), "-1"),
        ("ipv4", encoded(TypedData::Ipv4([192, 0, 2, 7].into())), TypedData::Ipv4([192, 0, 2, 7].into()), "192.0.2.7"),
        (
            "ipv6",
            encoded(TypedData::Ipv6("2001:db8::1".parse().unwrap())),
            TypedData::Ipv6("2001:db8::1".parse().unwrap()),
            "2001:db8::1",
        ),
        ("str", encoded(TypedData::Str("zoë".as_bytes())), TypedData::Str("zoë".as_bytes()), "zoë"),
        ("empty str", encoded(TypedData::Str(b"")), TypedData::Str(b""), ""),
        ("long str", encoded(long), TypedData::Str(&[b'x'; 300]), LONG),
        ("str with CR LF NUL", encoded(TypedData::Str(b"a\r\nb\0c")), TypedData::Str(b"a\r\nb\0c"), "a%0D%0Ab%00c"),
        (
            "str with a flag is bin",
            [&[0x18][..], &encoded(TypedData::Str(b"abc"))[1..]].concat(),
            TypedData::Bin(b"abc"),
            "abc",
        ),
        ("bin", encoded(TypedData::Bin(b"abc")), TypedData::Bin(b"abc"), "abc"),
        ("an unknown type", vec![12], TypedData::Null, ""),
    ]
}

const LONG: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
                    xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
                    xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

async fn haproxy_takes_each_type_of_an_ack(line: &str, program: &str) {
    // The variable is set by one group and sent back by another: its type on the wire is the type that HAProxy keeps.
    let settings = Settings {
        agent: " groups set echo".to_owned(),
        messages: "spoe-message set\n args row=req.hdr(x-row)\nspoe-message echo\n args value=var(txn.tollgate.x)\n\
                   spoe-group set\n messages set\nspoe-group echo\n messages echo\n"
            .to_owned(),
        front: " http-request send-spoe-group written set\n http-request send-spoe-group written echo\n \
                http-request return status 200 hdr X-Text %[var(txn.tollgate.x)]"
            .to_owned(),
        ..Settings::default()
    };
    let rows = taken();
    let values: Vec<_> = rows.iter().map(|(_, value, ..)| value.clone()).collect();
    let agent = Scripted::start(Script::answering(move |question| {
        let Ok(row) = question.text("row").parse::<usize>() else { return vec![Step::Write(question.ack(&[]))] };
        // Something to be replaced, or unset; and something after it, which must not be lost.
        let mut payload = actions(&[set(Scope::Transaction, "x", b"before")]);
        payload.extend([&[1, 3, 2, 1, b'x'][..], &values[row]].concat());
        payload.extend(actions(&[set(Scope::Transaction, "after", b"y")]));
        vec![Step::Write(question.ack_of(&payload))]
    }))
    .await;
    let haproxy = Written::start(program, agent.port, &settings).await;
    let mut wrong = Vec::new();
    for (index, (name, _, kept, text)) in rows.iter().enumerate() {
        let reply = web::get(haproxy.port, "/", &[("X-Row", &index.to_string())]).await.unwrap();
        let asked = agent.take_asked();
        let seen = asked.iter().find_map(|question| question.argument("value"));
        let printed = reply.field("x-text").unwrap_or_default();
        if seen != Some(*kept) || printed != *text {
            wrong.push(format!("{name}: expected {kept:?} `{text}`, saw {seen:?} `{printed}`"));
        }
    }
    assert!(wrong.is_empty(), "HAProxy {line}:\n{}", wrong.join("\n"));
}

const fn set<'a>(scope: Scope, name: &'a str, value: &'a [u8]) -> Action<'a> {
    Action::SetVar { scope, name, value: TypedData::Str(value) }
}

const SCOPES: [Scope; 5] = [Scope::Process, Scope::Session, Scope::Transaction, Scope::Request, Scope::Response];

/// Does what its argument says: `set`, `unset`, or `set` and the name of a scope that is unset again.
fn in_every_scope(question: &Question) -> Vec<Step> {
    let mut all = Vec::new();
    let act = question.text("act");
    let phase = question.text("phase");
    let Some((at, what)) = act.split_once(':').filter(|(at, _)| *at == phase) else {
        return vec![Step::Write(question.ack(&[]))];
    };
    assert!(!at.is_empty());
    for scope in SCOPES {
        if what.starts_with("set") {
            all.push(set(scope, "v", scope.name().as_bytes()));
            all.push(set(scope, "stray", scope.name().as_bytes()));
        }
        if what == "unset" || what.strip_prefix("set ") == Some(scope.name()) {
            all.push(Action::UnsetVar { scope, name: "v" });
        }
    }
    vec![Step::Write(question.ack(&all))]
}

async fn variables_live_as_long_as_their_scope(line: &str, program: &str) {
    let all = SCOPES.map(|scope| format!("%[var({}.tollgate.v)]", scope.name())).join(",");
    let settings = Settings {
        // Of the process's variables only known names may be set.
        agent: " groups request response\n register-var-names v".to_owned(),
        messages: "spoe-message request\n args phase=str(request) act=var(txn.act)\n\
                   spoe-message response\n args phase=str(response) act=var(txn.act)\n\
                   spoe-group request\n messages request\nspoe-group response\n messages response\n"
            .to_owned(),
        front: format!(
            " http-request set-var(txn.act) req.fhdr(x-act)\n http-request send-spoe-group written request\n \
             http-request set-header x-seen {all}\n http-request set-var(txn.seen) req.fhdr(x-seen)\n \
             http-response send-spoe-group written response\n \
             http-response set-header X-Request %[var(txn.seen)]\n http-response set-header X-Response {all}\n \
             default_backend app"
        ),
        more: String::new(),
        ..Settings::default()
    };
    let app = web::Application::start().await;
    let settings = Settings { more: format!("backend app\n server s 127.0.0.1:{}\n", app.port), ..settings };
    let agent = Scripted::start(Script::answering(in_every_scope)).await;
    let haproxy = Written::start(program, agent.port, &settings).await;
    let mut wrong = Vec::new();
    let mut check = |what: &str, reply: Result<Reply, String>, at_request: &str, at_response: &str| {
        let reply = reply.unwrap();
        let seen = (reply.field("x-request").unwrap_or_default(), reply.field("x-response").unwrap_or_default());
        if seen != (at_request, at_response) {
            wrong.push(format!("{what}: expected {:?}, saw {seen:?}", (at_request, at_response)));
        }
    };
    let (mut one, mut two) = (Client::connect(haproxy.port).await, Client::connect(haproxy.port).await);
    // At the request there is no response yet, and at the response the request's variables are gone.
    let (request, response) = ("proc,sess,txn,req,", "proc,sess,txn,,");
    check("nothing", one.get("/", &[]).await, ",,,,", ",,,,");
    check("set", one.get("/", &[("X-Act", "request:set")]).await, request, response);
    check("next of the session", one.get("/", &[]).await, "proc,sess,,,", "proc,sess,,,");
    check("another session", two.get("/", &[]).await, "proc,,,,", "proc,,,,");
    check("set at the response", two.get("/", &[("X-Act", "response:set")]).await, "proc,,,,", "proc,sess,txn,,res");
    check("its next", two.get("/", &[]).await, "proc,sess,,,", "proc,sess,,,");
    for (scope, at_request, at_response) in [
        ("proc", ",sess,txn,req,", ",sess,txn,,"),
        ("sess", "proc,,txn,req,", "proc,,txn,,"),
        ("txn", "proc,sess,,req,", "proc,sess,,,"),
        ("req", "proc,sess,txn,,", response),
        ("res", request, response),
    ] {
        let act = format!("request:set {scope}");
        check(&act, one.get("/", &[("X-Act", &act)]).await, at_request, at_response);
    }
    check(
        "set and unset at the response",
        one.get("/", &[("X-Act", "response:set res")]).await,
        "proc,sess,,,",
        response,
    );
    check("unset", one.get("/", &[("X-Act", "request:unset")]).await, ",,,,", ",,,,");
    check("unset in one session only", two.get("/", &[]).await, ",sess,,,", ",sess,,,");
    let known = haproxy.command("get var proc.tollgate.v").await;
    let stray = haproxy.command("get var proc.tollgate.stray").await;
    assert!(stray.contains("not found") && !stray.contains("value="), "an unknown name of the process: {stray}");
    assert!(known.contains("not found") || known.contains("undefined"), "{known}");
    assert!(wrong.is_empty(), "HAProxy {line}: at request, at response:\n{}", wrong.join("\n"));
}

async fn acks_may_come_in_any_order(line: &str, program: &str) {
    const HELD: usize = 5;
    let settings = Settings {
        global: " nbthread 1".to_owned(),
        agent: " groups ask".to_owned(),
        messages: "spoe-message ask\n args n=req.hdr(x-n)\nspoe-group ask\n messages ask\n".to_owned(),
        front: " http-request send-spoe-group written ask\n \
                http-request return status 200 hdr X-N %[var(txn.tollgate.n)] hdr X-Error %[var(txn.tollgate.error)]"
            .to_owned(),
        ..Settings::default()
    };
    let held: Mutex<Vec<Question>> = Mutex::default();
    let answer = |question: &Question| {
        let n = question.text("n");
        question.ack(&[set(Scope::Transaction, "n", n.as_bytes())])
    };
    let script = Script::answering(move |question| {
        if question.text("n") == "0" {
            return vec![Step::Write(answer(question))];
        }
        let mut held = held.lock().unwrap();
        held.push(question.clone());
        if held.len() < HELD {
            return Vec::new();
        }
        // The last one that came is answered first, all in one write.
        vec![Step::Write(held.drain(..).rev().flat_map(|question| answer(&question)).collect())]
    });
    // Only the first connection gets a HELLO, so that all questions share it.
    let first = Mutex::new(true);
    let hello = move |hello: &tollgate::spop::hello::HaproxyHello| {
        let first = std::mem::replace(&mut *first.lock().unwrap(), false);
        if first { vec![Step::Write(crate::support::scripted::good_hello(hello))] } else { Vec::new() }
    };
    let agent = Scripted::start(Script { hello: Box::new(hello), ..script }).await;
    let haproxy = Written::start(program, agent.port, &settings).await;
    let ask = async |n: usize| web::get(haproxy.port, "/", &[("X-N", &n.to_string())]).await.unwrap();
    assert_eq!(ask(0).await.field("x-n"), Some("0"), "HAProxy {line}");
    for round in 0..3 {
        agent.take_asked();
        let replies = join_all((1..=HELD).map(&ask)).await;
        let asked = agent.take_asked();
        assert!(asked.iter().all(|question| question.connection == 1) && asked.len() == HELD, "{asked:?}");
        for (index, reply) in replies.iter().enumerate() {
            let n = (index + 1).to_string();
            assert_eq!(reply.field("x-n"), Some(n.as_str()), "HAProxy {line}, round {round}: {reply:?}");
        }
    }
}
