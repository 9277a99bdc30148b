//! `when:`: what no other part of a rule can say, as an expression in CEL (Common Expression Language,
//! github.com/google/cel-spec), compiled once. The only place that knows the interpreter.
//!
//! The interpreter has no bound of its own, so there is one here. Each node of an expression is so many steps, as many more
//! within `all`, `exists`, `exists_one`, `map` or `filter` as a list may have items; an expression, or a rule with all of its
//! expressions, that could take more than [`STEPS_MAX`] is refused when the config is read, and what has more than
//! [`ITEMS_MAX`] items fails when it is looked at. Nothing an expression makes can be larger than what it is given, but for
//! [`ADDITIONS_MAX`] sums: lists are gone over by their names only.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, LiteralValue, operators};
use cel::extractors::This;
use cel::{Context, Env, ExecutionError, IdedExpr, Program};
use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::requirement::{Case, Known};
use crate::identity::{Groups, Identity};

/// A compiled expression.
#[derive(Clone)]
pub struct Condition {
    source: Arc<str>,
    program: Arc<Program>,
    reads: Reads,
    patterns: Patterns,
    steps: u64,
}

/// What an expression says of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// `true`.
    Yes,
    /// `false`.
    No,
    /// It looks at groups, and not all the caller's are known.
    GroupsUnknown,
    /// It looks at what is not known of the case.
    Unrecorded,
    /// Neither: something is not there, or of another type. The text names no value.
    Failed(String),
}

/// An expression that cannot be used: what is wrong, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// What is wrong, with where in the expression.
    pub what: String,
    /// What was expected.
    pub expected: &'static str,
    /// A name that is not known, where that is what is wrong.
    pub unknown: Option<String>,
}

/// The names that an expression may use, with their types and what they are.
pub const NAMES: [(&str, &str, &str); 15] = [
    ("user", "string", "as in the variable of that name; empty where there is none, as all strings here"),
    ("subject", "string", "`sub`"),
    (
        "email",
        "string",
        "the e-mail address, where `email_verified` is true and it has one `@`; compare what is behind that with `email.endsWith(\"@acme.example\")`",
    ),
    ("name", "string", "the display name"),
    ("issuer", "string", "the config's name of the issuer"),
    ("client_id", "string", "the client that the token was issued to"),
    ("groups", "list of strings", "the caller's groups by the names of `groups:`"),
    ("scopes", "list of strings", "the token's scopes"),
    ("claims", "map", "the verified claims"),
    ("credential", "string", "its kind, as in `credential:`; `anonymous` without one"),
    ("method", "string", "of the request; case counts"),
    ("host", "string", "in lower case, without port"),
    ("path", "string", "as the application sees it: decoded, without query"),
    ("src", "string", "the client's address"),
    ("now", "int", "seconds since 1970"),
];

/// The functions that it may use.
pub const FUNCTIONS: [&str; 9] =
    ["size", "contains", "startsWith", "endsWith", "matches", "int", "double", "string", "type"];

/// What looks like a function, and is written out before anything is called.
pub const MACROS: [&str; 6] = ["has", "all", "exists", "exists_one", "map", "filter"];

/// Bytes of an expression. The interpreter's parser bounds how deep it nests.
pub const SOURCE_BYTES_MAX: usize = 2048;

/// Steps of a rule's expressions, 50 to 100 ns each.
pub const STEPS_MAX: u64 = 25_000;

/// Sums in an expression: each copies what it adds up.
pub const ADDITIONS_MAX: u64 = 8;

/// Bytes of a text that a pattern is compared with. A path or a user with more is none that somebody wrote a pattern for.
pub const MATCHED_BYTES_MAX: usize = 1024;

/// Values in the claims that an expression names, all together: each is made ready for it.
pub const VALUES_MAX: usize = 2048;

/// Items of a list or map that an expression looks at.
pub const ITEMS_MAX: usize = 256;

/// Which names an expression has in it: nothing else is made ready for it.
#[derive(Clone, Debug, Default)]
struct Reads {
    names: Vec<&'static str>,
    claims: Claims,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Claims {
    #[default]
    None,
    /// By name.
    These(Vec<String>),
    /// As a whole.
    All,
}

type Patterns = Arc<BTreeMap<String, Regex>>;

impl Condition {
    /// Compiles `source`.
    pub fn new(source: &str) -> Result<Condition, Unusable> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(Unusable::new(
                format!("this has {} bytes", source.len()),
                "an expression of at most 2048 bytes; more rules, or `any:` and `all:`, for the rest",
            ));
        }
        let program = ENVIRONMENT.compile(source).map_err(|errors| {
            let first = errors.errors.first().map_or_else(String::new, |error| {
                // Behind it are the names of the parser's tokens.
                let said = error.msg.split(" expecting ").next().unwrap_or_default();
                if said.contains("Recursion limit") {
                    return ": it nests more than 96 deep".to_owned();
                }
                format!(": column {}: {}", error.pos.1, said.replace(['\n', '\r'], " ").replace("<EOF>", "end of it"))
            });
            Unusable::new(format!("this is not an expression{first}"), EXPRESSION)
        })?;
        let mut reading = Reading::default();
        reading.read(program.expression(), 1)?;
        if reading.additions > ADDITIONS_MAX {
            return Err(Unusable::new(format!("this has {} sums", reading.additions), "at most 8 `+`"));
        }
        if reading.steps > STEPS_MAX {
            return Err(Unusable::new(
                format!("this could take {} steps", reading.steps),
                "at most 25000: fewer of `all`, `exists`, `map` and `filter`, not one within another, and less within them",
            ));
        }
        let condition = Condition {
            source: source.into(),
            program: Arc::new(program),
            reads: Reads { names: reading.names, claims: reading.claims },
            patterns: Arc::new(reading.patterns),
            steps: reading.steps,
        };
        condition.try_out()?;
        Ok(condition)
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// How many steps it could take.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether it looks at groups.
    pub fn names_groups(&self) -> bool {
        self.reads.names.contains(&"groups")
    }

    /// Whether it looks at what only an identity has.
    pub fn needs_identity(&self) -> bool {
        self.reads.names.iter().any(|name| !["method", "host", "path", "src", "now"].contains(name))
    }

    /// Evaluates it.
    pub fn holds(&self, case: Case<'_>) -> Held {
        if case.known != Known::ALL && self.reads.names.iter().any(|name| !is_known(name, case.known)) {
            return Held::Unrecorded;
        }
        if self.names_groups() && !case.identity.groups_known {
            return Held::GroupsUnknown;
        }
        match self.evaluate(case) {
            Ok(cel::Value::Bool(true)) => Held::Yes,
            Ok(cel::Value::Bool(false)) => Held::No,
            Ok(other) => Held::Failed(format!("it is {}, neither true nor false", other.type_of())),
            Err(error) => Held::Failed(error),
        }
    }

    fn evaluate(&self, case: Case<'_>) -> Result<cel::Value, String> {
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        for name in &self.reads.names {
            context.add_variable_from_value(*name, self.value(name, case)?);
        }
        if !self.patterns.is_empty() {
            let patterns = Arc::clone(&self.patterns);
            let matches = move |This(text): This<Arc<String>>, pattern: Arc<String>| {
                if text.len() > MATCHED_BYTES_MAX {
                    let message = format!("a text has more than {MATCHED_BYTES_MAX} bytes");
                    return Err(ExecutionError::FunctionError { function: "matches".to_owned(), message });
                }
                // Every pattern that the expression can name was compiled with it.
                Ok(patterns.get(pattern.as_str()).is_some_and(|pattern| pattern.is_match(&text)))
            };
            context.add_function("matches", matches).map_err(|_| "`matches` is not to be had".to_owned())?;
        }
        self.program.execute(&context).map_err(|error| failure(&error))
    }

    fn value(&self, name: &str, case: Case<'_>) -> Result<cel::Value, String> {
        let Case { request, path, identity, now, .. } = case;
        Ok(match name {
            "user" => identity.user.as_str().into(),
            "subject" => identity.subject.as_str().into(),
            "email" => verified_email(identity).into(),
            "name" => identity.name.as_str().into(),
            "issuer" => (*identity.issuer_name).into(),
            "client_id" => identity.client_id.as_str().into(),
            "groups" => {
                let groups: Vec<String> = Groups::split(&identity.groups_joined).collect();
                few(groups.len(), "groups")?;
                groups.into()
            }
            "scopes" => {
                few(identity.scopes.len(), "scopes")?;
                identity.scopes.clone().into()
            }
            "claims" => self.claims(identity)?,
            "credential" => identity.credential.name().into(),
            "method" => request.method.into(),
            "host" => (*request.host).into(),
            // An application that decodes such a path does so in its own way.
            "path" => std::str::from_utf8(path).map_err(|_| "the path is not UTF-8".to_owned())?.into(),
            "src" => request.src.map(|src| src.to_string()).unwrap_or_default().into(),
            "now" => now.unix_s().into(),
            other => return Err(format!("`{other}` is not known")),
        })
    }

    fn claims(&self, identity: &Identity) -> Result<cel::Value, String> {
        let held: std::collections::HashMap<String, cel::Value> = match &self.reads.claims {
            Claims::None => Default::default(),
            Claims::These(names) => {
                let held = names.iter().filter_map(|name| Some((name, identity.claims.get(name)?)));
                let mut room = VALUES_MAX;
                held.map(|(name, value)| Ok((name.clone(), claim(name, value, &mut room)?)))
                    .collect::<Result<_, String>>()?
            }
            Claims::All => {
                few(identity.claims.len(), "claims")?;
                let (held, mut room) = (identity.claims.iter(), VALUES_MAX);
                held.map(|(name, value)| Ok((name.clone(), claim(name, value, &mut room)?)))
                    .collect::<Result<_, String>>()?
            }
        };
        Ok(held.into())
    }

    /// What could never be true or false for anybody is a mistake that can be told at once.
    fn try_out(&self) -> Result<(), Unusable> {
        if !matches!(self.reads.claims, Claims::None) {
            // Anybody's claims can be of any type.
            return Ok(());
        }
        let request = crate::request::Request { method: "GET", path: b"/", ..Default::default() };
        let identity = Identity::anonymous();
        let now = crate::clock::Clock::by_hand(0).now();
        match self.evaluate(Case { request: &request, path: b"/", identity: &identity, now, known: Known::ALL }) {
            Ok(cel::Value::Bool(_)) => Ok(()),
            Ok(other) => {
                let what = format!("this is {} {}, neither true nor false", article(other.type_of()), other.type_of());
                Err(Unusable::new(what, EXPRESSION))
            }
            // Nobody has a first group, and so on: with another caller it may well hold.
            Err(error) if error.starts_with(NO_OVERLOAD) => Err(Unusable::new(error, EXPRESSION)),
            Err(_) => Ok(()),
        }
    }
}

impl std::fmt::Debug for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Condition").field(&self.source).finish()
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Condition) -> bool {
        self.source == other.source
    }
}

impl Eq for Condition {}

impl Unusable {
    fn new(what: String, expected: &'static str) -> Unusable {
        Unusable { what, expected, unknown: None }
    }
}

/// The address, where the issuer says that it is verified and nobody could take part of it for another's (GHSA-c5c4).
fn verified_email(identity: &Identity) -> &str {
    let is_verified = identity.claims.get("email_verified") == Some(&Value::Bool(true));
    let is_one = identity.email.matches('@').count() == 1 && !identity.email.contains(char::is_whitespace);
    if is_verified && is_one { &identity.email } else { "" }
}

fn is_known(name: &str, known: Known) -> bool {
    match name {
        "src" => known.src,
        "user" | "subject" | "issuer" | "client_id" => known.user,
        "credential" => known.credential,
        "scopes" => known.scopes,
        "claims" | "email" | "name" => known.claims,
        _ => true,
    }
}

fn few(count: usize, what: &str) -> Result<(), String> {
    if count > ITEMS_MAX { Err(format!("`{what}` has more than {ITEMS_MAX} items")) } else { Ok(()) }
}

/// Whole numbers are `int` where they fit, since that is what a number in an expression is.
fn claim(name: &str, value: &Value, room: &mut usize) -> Result<cel::Value, String> {
    *room = room.checked_sub(1).ok_or_else(|| format!("the claims have more than {VALUES_MAX} values in all"))?;
    Ok(match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(whole), _, _) => whole.into(),
            (None, Some(whole), _) => whole.into(),
            (None, None, fraction) => fraction.unwrap_or(f64::NAN).into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => {
            few(items.len(), &format!("claims.{name}"))?;
            items.iter().map(|item| claim(name, item, room)).collect::<Result<Vec<_>, _>>()?.into()
        }
        Value::Object(members) => {
            few(members.len(), &format!("claims.{name}"))?;
            let members = members.iter().map(|(key, value)| Ok((key.clone(), claim(name, value, room)?)));
            members.collect::<Result<std::collections::HashMap<_, _>, String>>()?.into()
        }
    })
}

/// Our own words: those of the interpreter hold values.
fn failure(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => {
            format!("there is no `{}`; `has(…)` asks whether there is", key.escape_debug().take(64).collect::<String>())
        }
        ExecutionError::NoSuchOverload(error) => {
            format!("{NO_OVERLOAD} `{}` for {}", error.function(), error.argument_types().join(" and "))
        }
        ExecutionError::UndeclaredReference(name) => format!("`{name}` is not known"),
        ExecutionError::IndexOutOfBounds(_) => "a list has fewer items than that".to_owned(),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            "something is divided by 0".to_owned()
        }
        ExecutionError::Overflow(..) => "a number is too large".to_owned(),
        // Ours.
        ExecutionError::FunctionError { function, message } if function == "matches" => {
            format!("`matches` is asked about what it is not for: {message}")
        }
        ExecutionError::UnexpectedType { want, .. } => format!("a value is not of type {want}"),
        _ => "values are of types that do not go together".to_owned(),
    }
}

fn article(kind: cel::objects::ValueType) -> &'static str {
    if kind.to_string().starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// A name, what is selected from one, or a list of literals.
fn is_named(node: &IdedExpr) -> bool {
    match &node.expr {
        Expr::Ident(_) => true,
        Expr::Select(select) => !select.test && is_named(&select.operand),
        Expr::Call(call) if call.func_name == operators::INDEX => match call.args.as_slice() {
            [of, key] => is_named(of) && matches!(key.expr, Expr::Literal(_)),
            _ => false,
        },
        Expr::List(list) => list.elements.iter().all(|item| matches!(item.expr, Expr::Literal(_))),
        _ => false,
    }
}

/// Steps of a function besides those of what it is given: what goes over a whole list or text is not done in one.
fn cost(function: &str) -> u64 {
    match function {
        operators::IN => ITEMS_MAX as u64,
        // A pattern of the largest size against a text of the largest size.
        "matches" => 4_000,
        operators::EQUALS | operators::NOT_EQUALS | "startsWith" | "endsWith" => 4,
        "contains" | operators::ADD => 64,
        _ => 0,
    }
}

/// Reading an expression before it is used.
#[derive(Default)]
struct Reading {
    steps: u64,
    additions: u64,
    names: Vec<&'static str>,
    claims: Claims,
    patterns: BTreeMap<String, Regex>,
    /// Names that `exists(g, …)` and its like give to items.
    items: Vec<String>,
}

impl Reading {
    /// Reads a node that is evaluated at most `times`.
    fn read(&mut self, node: &IdedExpr, times: u64) -> Result<(), Unusable> {
        self.steps = self.steps.saturating_add(times);
        match &node.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => match &select.operand.expr {
                Expr::Ident(name) if name == "claims" && !self.items.contains(name) => {
                    self.claim(&select.field);
                    self.name_once("claims");
                    Ok(())
                }
                _ => self.read(&select.operand, times),
            },
            Expr::Call(call) => {
                self.function(&call.func_name)?;
                self.steps = self.steps.saturating_add(times.saturating_mul(cost(&call.func_name)));
                if call.func_name == operators::ADD {
                    self.additions += 1;
                    let is_literal = |argument: &IdedExpr| matches!(argument.expr, Expr::Literal(_));
                    if !self.items.is_empty() && !call.args.iter().any(is_literal) {
                        return Err(Unusable::new(
                            "two things are added up for each item of a list, which can make them ever larger"
                                .to_owned(),
                            "a text or a number, written out, on one side of such a `+`",
                        ));
                    }
                }
                let arguments = call.target.as_deref().into_iter().chain(&call.args);
                if call.func_name == "matches" {
                    let pattern = arguments.clone().last().map(|argument| &argument.expr);
                    let Some(Expr::Literal(LiteralValue::String(pattern))) = pattern else {
                        return Err(Unusable::new("`matches` has a pattern that is not written out".into(), PATTERN));
                    };
                    self.pattern(pattern.inner())?;
                }
                if let (operators::INDEX, [of, key]) = (call.func_name.as_str(), call.args.as_slice())
                    && let (Expr::Ident(name), Expr::Literal(LiteralValue::String(key))) = (&of.expr, &key.expr)
                    && name == "claims"
                    && !self.items.contains(name)
                {
                    self.claim(key.inner());
                    self.name_once("claims");
                    return Ok(());
                }
                for argument in arguments {
                    self.read(argument, times)?;
                }
                Ok(())
            }
            Expr::List(list) => {
                if list.elements.len() > ITEMS_MAX {
                    return Err(Unusable::new(
                        format!("a list has {} items", list.elements.len()),
                        "at most 256; a group for the rest",
                    ));
                }
                list.elements.iter().try_for_each(|item| self.read(item, times))
            }
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.read(&entry.key, times)?;
                    self.read(&entry.value, times)
                }
                EntryExpr::StructField(field) => self.read(&field.value, times),
            }),
            Expr::Struct(made) => Err(Unusable::new(format!("`{}` is not a type here", made.type_name), EXPRESSION)),
            Expr::Comprehension(each) => {
                // What is put together could have more items, or larger ones, than anything that it was made of.
                let is_bounded = is_named(&each.iter_range);
                if !is_bounded {
                    return Err(Unusable::new(
                        "`all`, `exists`, `map` or `filter` go over something put together".to_owned(),
                        "a list by its name, such as `groups` or `claims.roles`, or one of texts and numbers",
                    ));
                }
                self.read(&each.iter_range, times)?;
                self.read(&each.accu_init, times)?;
                let names = [Some(&each.iter_var), each.iter_var2.as_ref(), Some(&each.accu_var)];
                let before = self.items.len();
                self.items.extend(names.into_iter().flatten().cloned());
                let many = times.saturating_mul(ITEMS_MAX as u64);
                self.read(&each.loop_cond, many)?;
                self.read(&each.loop_step, many)?;
                self.read(&each.result, times)?;
                self.items.truncate(before);
                Ok(())
            }
        }
    }

    fn name(&mut self, name: &str) -> Result<(), Unusable> {
        if self.items.iter().any(|item| item == name) || TYPES.contains(&name) {
            return Ok(());
        }
        let Some((known, _, _)) = NAMES.iter().find(|(known, _, _)| *known == name) else {
            return Err(Unusable {
                what: format!("`{name}` is not known here"),
                expected: "",
                unknown: Some(name.to_owned()),
            });
        };
        if *known == "claims" {
            self.claims = Claims::All;
        }
        self.name_once(known);
        Ok(())
    }

    fn name_once(&mut self, name: &'static str) {
        if !self.names.contains(&name) {
            self.names.push(name);
        }
    }

    fn claim(&mut self, name: &str) {
        match &mut self.claims {
            Claims::None => self.claims = Claims::These(vec![name.to_owned()]),
            Claims::These(names) if !names.iter().any(|known| known == name) => names.push(name.to_owned()),
            Claims::These(_) | Claims::All => {}
        }
    }

    fn function(&self, name: &str) -> Result<(), Unusable> {
        if FUNCTIONS.contains(&name) || OPERATORS.contains(&name) {
            return Ok(());
        }
        Err(Unusable {
            what: format!("there is no function `{name}` here"),
            expected: "",
            unknown: Some(name.to_owned()),
        })
    }

    /// A pattern is for the whole text, and says so: one that matches anywhere lets through what nobody thought of
    /// (GHSA-7rh7).
    fn pattern(&mut self, pattern: &str) -> Result<(), Unusable> {
        let Some(inner) = pattern.strip_prefix('^').and_then(|rest| rest.strip_suffix('$')) else {
            return Err(Unusable::new(
                format!("the pattern `{}` would match anywhere in a text", pattern.escape_debug()),
                PATTERN,
            ));
        };
        // By itself first: `a)|(?:b` would close the brackets that are put around it.
        let alone = Regex::new(inner).err().map(|error| error.to_string());
        // `^a|b$` is two halves, each with one anchor; as a whole it has both.
        let whole = format!("\\A(?:{inner})\\z");
        let compiled =
            RegexBuilder::new(&whole).size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX).build();
        let compiled = alone.map_or_else(|| compiled.map_err(|error| error.to_string()), Err);
        let compiled = compiled.map_err(|text| {
            let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Unusable::new(format!("`{}` is not a regular expression: {last}", pattern.escape_debug()), PATTERN)
        })?;
        self.patterns.insert(pattern.to_owned(), compiled);
        Ok(())
    }
}

/// The functions and macros of the language, without those for optional values.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut environment = Env::stdlib();
    environment = environment.with_optional_support(false);
    Arc::new(environment)
});

/// The names of types, for `type(x) == string`.
const TYPES: [&str; 9] = ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "uint"];

/// Operators are functions too, and so is what the macros are made of.
const OPERATORS: [&str; 19] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
    operators::IN,
    operators::NOT_STRICTLY_FALSE,
];

const NO_OVERLOAD: &str = "there is no";
const EXPRESSION: &str = "an expression that is true or false, such as `claims.level >= 3 && method == \"GET\"`";
const PATTERN: &str = "a pattern for the whole text, written out: `user.matches(\"^[a-z]+$\")`";

/// Of a compiled pattern; several times what an ordinary one has.
const PATTERN_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock::Clock;
    use crate::identity::CredentialKind;
    use crate::request::Request;

    fn held(source: &str, claims: Value) -> Held {
        let mut identity = Identity::anonymous();
        identity.credential = CredentialKind::Jwt;
        identity.user = "alice".to_owned();
        identity.email = "alice@acme.example".to_owned();
        identity.issuer_name = "acme".into();
        identity.groups_joined = "a%2Cb,ops".to_owned();
        identity.scopes = vec!["read".to_owned()];
        identity.claims = claims.as_object().unwrap().clone();
        let request = Request {
            method: "GET",
            host: "api.acme.example".into(),
            src: Some([192, 0, 2, 7].into()),
            path: b"/v1/users/alice",
            ..Request::default()
        };
        let now = Clock::by_hand(1_800_000_000).now();
        let case = Case { request: &request, path: request.path, identity: &identity, now, known: Known::ALL };
        Condition::new(source).unwrap().holds(case)
    }

    #[test]
    fn an_expression_sees_what_its_names_say() {
        let claims = json!({
            "level": 3, "score": 2.5, "roles": ["dev", "sre"], "org": { "id": "x", "big": 18_446_744_073_709_551_615_u64 },
            "flag": true, "nothing": null, "kebab-case": "k", "email_verified": true, "text": "x".repeat(1025), "long": vec![0; 256], "longer": vec![0; 257],
        });
        let fails = |text: &str| Held::Failed(text.to_owned());
        for (source, expected) in [
            (r#"path.startsWith("/v1/users/" + user)"#, Held::Yes),
            (r#"method in ["GET", "HEAD"] && host.endsWith(".acme.example")"#, Held::Yes),
            (r#""ops" in groups && "a,b" in groups && size(groups) == 2"#, Held::Yes),
            (r#""read" in scopes && !("write" in scopes)"#, Held::Yes),
            (r#"credential == "jwt" && issuer == "acme" && src == "192.0.2.7""#, Held::Yes),
            ("claims.level >= 3 && claims.score > 2.0 && claims.flag", Held::Yes),
            ("claims.org.big > 18446744073709551614u", Held::Yes),
            (r#"claims.roles.exists(role, role.startsWith("sr"))"#, Held::Yes),
            (r#"claims.roles.all(role, role == "dev")"#, Held::No),
            (r#"claims["kebab-case"] == "k""#, Held::Yes),
            ("claims.nothing == null", Held::Yes),
            ("has(claims.level) && !has(claims.other) && !has(claims.org.other)", Held::Yes),
            (r#"claims.exists(name, name == "flag")"#, fails("`claims.longer` has more than 256 items")),
            ("size(claims.long) == 256", Held::Yes),
            ("size(claims.longer) > 0", fails("`claims.longer` has more than 256 items")),
            ("now == 1800000000", Held::Yes),
            (r#"user.matches("^[a-z]+$")"#, Held::Yes),
            (r#"matches(user, "^lic$")"#, Held::No),
            (r#"user.matches("^ali|x$")"#, Held::No),
            (
                r#"claims.text.matches("^x*$")"#,
                fails("`matches` is asked about what it is not for: a text has more than 1024 bytes"),
            ),
            (r#"email.endsWith("@acme.example")"#, Held::Yes),
            (r#"groups.exists(g, g == "o" + "ps")"#, Held::Yes),
            ("claims.level", fails("it is int, neither true nor false")),
            ("claims.other > 3", fails("there is no `other`; `has(…)` asks whether there is")),
            (r#"claims.level > "3""#, fails("there is no `_>_` for int and string")),
            ("claims.level / 0 == 1", fails("something is divided by 0")),
            ("claims.roles[2] == 'x'", fails("a list has fewer items than that")),
            ("claims.flag || claims.other", Held::Yes),
            ("claims.other || claims.flag", Held::Yes),
            ("!claims.flag && claims.other", Held::No),
        ] {
            assert_eq!(held(source, claims.clone()), expected, "{source}");
        }
    }

    #[test]
    fn what_can_never_be_of_use_is_refused() {
        let long = format!("user == \"{}\"", "x".repeat(SOURCE_BYTES_MAX));
        let deep = format!("{}true{}", "(".repeat(500), ")".repeat(500));
        let sum = format!("({}).exists(x, x == user)", ["groups"; 5].join(" + "));
        let list = format!("user in [{}]", ["'a'"; 257].join(","));
        for (source, what) in [
            ("", "this is not an expression"),
            ("user ==", "this is not an expression"),
            (deep.as_str(), "this is not an expression"),
            (&long, "this has 2058 bytes"),
            ("usr == 'x'", "`usr` is not known here"),
            ("request.path == '/'", "`request` is not known here"),
            ("user.lower() == 'x'", "there is no function `lower` here"),
            ("optional.of(user).hasValue()", "there is no function `hasValue` here"),
            ("user", "this is a string, neither true nor false"),
            ("size(groups)", "this is an int, neither true nor false"),
            ("now > 'x'", "there is no `_>_` for int and string"),
            ("user.matches('alice')", "the pattern `alice` would match anywhere in a text"),
            ("user.matches('^(alice$')", "`^(alice$` is not a regular expression"),
            ("user.matches('^\\\\pL{1000}$')", "`^\\\\pL{1000}$` is not a regular expression"),
            ("user.matches(email)", "`matches` has a pattern that is not written out"),
            (&sum, "`all`, `exists`, `map` or `filter` go over something put together"),
            ("groups.exists(a, groups.exists(b, a == b && a != user))", "this could take"),
            ("groups.exists(a, groups.exists(b, a in scopes))", "this could take"),
            ("[path].map(a, a + a).size() == 1", "`all`, `exists`, `map` or `filter` go over something put together"),
            ("['x'].map(a, a + a).size() == 1", "two things are added up for each item"),
            (
                "{'k': groups}.k.exists(x, x == user)",
                "`all`, `exists`, `map` or `filter` go over something put together",
            ),
            (
                "[groups + groups][0].exists(x, x == user)",
                "`all`, `exists`, `map` or `filter` go over something put together",
            ),
            (
                "groups.filter(a, a != '').exists(x, x == user)",
                "`all`, `exists`, `map` or `filter` go over something put together",
            ),
            ("user + user + user + user + user + user + user + user + user + user == ''", "this has 9 sums"),
            ("user.matches('^a)|(?:b$')", "`^a)|(?:b$` is not a regular expression"),
            (&list, "a list has 257 items"),
            ("Thing{a: 1} == user", "`Thing` is not a type here"),
            ("groups.exists(claims, claims == other)", "`other` is not known here"),
        ] {
            let unusable = Condition::new(source).expect_err(source);
            assert!(unusable.what.starts_with(what), "{}: {}", source.get(..60).unwrap_or(source), unusable.what);
        }
    }

    #[test]
    fn only_what_is_named_is_made_ready() {
        let claims = |source: &str| Condition::new(source).unwrap().reads.claims;
        assert_eq!(claims("user == 'x'"), Claims::None);
        let these = Claims::These(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(claims("claims.a.x == 1 && claims['b'] == 2 && has(claims.a)"), these);
        assert_eq!(claims("claims.a == 1 && claims.all(k, k != 'x')"), Claims::All);
        assert_eq!(claims("groups.exists(claims, claims == 'x')"), Claims::None);
        assert!(Condition::new("groups.exists(g, g == user)").unwrap().needs_identity());
        assert!(!Condition::new("method == 'GET' && path != host").unwrap().needs_identity());
    }

    #[test]
    fn an_address_is_told_where_it_is_verified_and_one() {
        for (email, verified, expected) in [
            ("a@acme.example", json!(true), "a@acme.example"),
            ("a@acme.example", json!(false), ""),
            ("a@acme.example", json!("true"), ""),
            ("a@acme.example", Value::Null, ""),
            ("x@evil.example@acme.example", json!(true), ""),
            ("a acme.example", json!(true), ""),
        ] {
            let mut identity = Identity::anonymous();
            identity.email = email.to_owned();
            identity.claims.insert("email_verified".to_owned(), verified);
            assert_eq!(verified_email(&identity), expected, "{email}");
        }
    }

    #[test]
    fn groups_that_are_not_known_are_not_looked_at() {
        let mut identity = Identity::anonymous();
        identity.groups_known = false;
        let request = Request::default();
        let now = Clock::by_hand(0).now();
        let case = Case { request: &request, path: b"/", identity: &identity, now, known: Known::ALL };
        let held = |source: &str| Condition::new(source).unwrap().holds(case);
        assert_eq!(held("!('ops' in groups)"), Held::GroupsUnknown);
        assert_eq!(held("true || 'ops' in groups"), Held::GroupsUnknown);
        assert_eq!(held("user == ''"), Held::Yes);
    }
}
