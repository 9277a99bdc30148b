//! The HTML: what this is, the password page, and a page for each dead end. No script, no image, nothing from
//! elsewhere.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};
use http::{StatusCode, header};

use super::Provider;
use super::claims::TOKEN_TTL_S;

/// `GET /`: the users, the endpoints, and curl lines to copy.
pub(super) async fn front(State(provider): State<Arc<Provider>>) -> Response {
    let base = Text(&provider.base);
    let minutes = TOKEN_TTL_S / 60;
    let first = Text(provider.users.all().next().map_or("", |user| &user.name));
    let mut users = String::new();
    for user in provider.users.all() {
        let _ = write!(
            users,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td><code>{}</code></td></tr>",
            Text(&user.name),
            Text(&user.groups.join(", ")),
            Text(&user.subject)
        );
    }
    let issuer = Text(&provider.issuer);
    show(
        StatusCode::OK,
        "Tollgate dev-idp",
        format_args!(
            r##"<p>An OpenID provider for demos and tests. <strong>It protects nothing</strong>: a demo user's password
is the user's name, any client is taken with any secret or none, and it signs what it is asked to sign. Its keys live in
memory and are new at each start.</p>
<p>Issuer: <code>{issuer}</code> · <a href="{base}/.well-known/openid-configuration">configuration</a> ·
<a href="{base}/jwks">keys</a></p>
<h2>Users</h2>
<table><thead><tr><th scope="col">name</th><th scope="col">groups</th><th scope="col">sub</th></tr></thead>
<tbody>{users}</tbody></table>
<h2>A token in one line</h2>
<pre><code>curl -H "Authorization: Bearer $(curl -s '{base}/mint?user={first}')" …</code></pre>
<p><code>GET /mint</code> answers an access token as plain text. Besides <code>user</code> it takes:</p>
<dl>
<dt><code>aud</code></dt><dd>the audience</dd>
<dt><code>ttl</code></dt><dd>seconds to its expiry; negative for an expired token; {minutes} minutes if left out</dd>
<dt><code>nbf</code></dt><dd>seconds from now until it is valid</dd>
<dt><code>alg</code></dt><dd>RS256 (if left out), PS256, ES256, ES384 or EdDSA</dd>
<dt><code>kid</code>, <code>iss</code></dt><dd>a key id and an issuer that are not true</dd>
<dt><code>claims</code></dt><dd>a JSON object merged in last; <code>null</code> takes a claim out:
<code>curl -sG '{base}/mint' -d user={first} --data-urlencode 'claims={{"groups":["x"],"email":null}}'</code></dd>
</dl>
<h2>New keys</h2>
<pre><code>curl -X POST '{base}/rotate'          # the old keys are gone at once
curl -X POST '{base}/rotate?keep=1'   # the old keys stay published</code></pre>
<h2>Without a browser</h2>
<pre><code>curl -d grant_type=password -d username={first} -d password={first} {base}/token
curl -d grant_type=client_credentials -d client_id=batch {base}/token</code></pre>
<p>With one: authorization code flow, PKCE with S256 required, redirects to this machine only.</p>"##
        ),
    )
}

/// The password page. `problem` is what was wrong with the last try.
pub(super) fn password(
    provider: &Provider,
    request: &str,
    client_id: &str,
    username: Option<&str>,
    problem: Option<&str>,
) -> Response {
    let mut options = String::new();
    for user in provider.users.all() {
        let selected = if username == Some(&user.name) { " selected" } else { "" };
        let groups = if user.groups.is_empty() { "no groups".to_owned() } else { user.groups.join(", ") };
        let (name, groups) = (Text(&user.name), Text(&groups));
        let _ = write!(options, "<option value=\"{name}\"{selected}>{name} ({groups})</option>");
    }
    let problem = problem.map_or_else(String::new, |text| format!("<p role=\"alert\">{}</p>", Text(text)));
    let status = if problem.is_empty() { StatusCode::OK } else { StatusCode::FORBIDDEN };
    show(
        status,
        "Sign in",
        format_args!(
            r#"<p>to <strong>{}</strong></p>{problem}
<form method="post" action="{}/login">
<input type="hidden" name="request" value="{}">
<p><label for="username">User</label><select id="username" name="username">{options}</select></p>
<p><label for="password">Password</label><input id="password" name="password" type="password" required autofocus
autocomplete="off" aria-describedby="hint"></p>
<p id="hint">A development provider: a demo user's password is the user's name.</p>
<p><button type="submit">Sign in</button></p>
</form>"#,
            Text(client_id),
            Text(&provider.base),
            Text(request)
        ),
    )
}

/// After signing out with nowhere to go back to.
pub(super) fn signed_out() -> Response {
    show(StatusCode::OK, "Signed out", format_args!("<p>This provider keeps no session: there was nothing to end.</p>"))
}

/// A dead end, with what to do about it.
pub(super) fn refusal(status: StatusCode, why: &str) -> Response {
    show(status, "That cannot work", format_args!("<p role=\"alert\">{}</p>", Text(why)))
}

fn show(status: StatusCode, title: &str, body: fmt::Arguments<'_>) -> Response {
    let title = Text(title);
    let html = format!(
        r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="referrer" content="no-referrer"><title>{title}</title><style>{STYLE}</style></head>
<body><main><h1>{title}</h1>
{body}
</main></body></html>
"#
    );
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        // No form-action: browsers apply it to the redirect after the form too, which goes to the application.
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, Html(html)).into_response()
}

/// Text inside an element or a quoted attribute.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

const STYLE: &str = "body{font:1rem/1.5 system-ui,sans-serif;margin:2rem auto;max-width:50rem;padding:0 1rem}\
    label{display:block}select,input,button{font:inherit;padding:.3rem .6rem;min-width:16rem}\
    pre{overflow-x:auto;padding:.8rem;border:1px solid}th,td{text-align:left;padding:.2rem 1rem .2rem 0}\
    [role=alert]{border-left:.3rem solid #b00020;padding-left:.8rem}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(Text("<b a='x' c=\"y\">&").to_string(), "&lt;b a=&#39;x&#39; c=&quot;y&quot;&gt;&amp;");
    }
}
