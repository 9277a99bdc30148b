// The certified oidc-provider as the provider of Tollgate's end-to-end tests: bytes that somebody else wrote.
//
//   npm ci && node server.mjs --port N [--port-file F]
//
// Listens on 127.0.0.1:N (0 takes a free port), writes the port to F, and prints one line on stdout when it answers:
// {"issuer":"http://127.0.0.1:N","pid":P}. Everything else goes to stderr. It ends on SIGTERM, and when its stdin is
// closed, so that a test that dies leaves no orphan; by hand in the background, give it one: `sleep inf | node …`.
//
// Users: alice (platform-ops, plan-pro), bob (plan-pro), carol (no groups claim); the password is the name.
// Clients: `web` (secret `web-secret`, code flow), `tollgate` (secret `tollgate-secret`, introspection and
// client_credentials); others by dynamic registration, POST /reg (RFC 7591), with the redirect URIs of the test.
//
// Access tokens are JWTs for https://api.acme.example, signed as the resource indicator (RFC 8707) says:
// https://api.acme.example is RS256; …/ps256, …/es256, …/eddsa are the others; …/opaque is an opaque token, for
// introspection. Without a resource the token is opaque and good for the userinfo endpoint only.
//
// For tests alone:
//   POST /test/mint    {user, groups, scope, aud, ttl, alg, client_id, claims} all but `user` optional: an access token
//                      as bare text. `alg` is RS256 PS256 ES256 EdDSA or opaque; `ttl` seconds, negative for an expired
//                      one; `claims` are put over everything in a JWT, where `null` takes a claim out. With `aud` null
//                      the token is opaque and for the userinfo endpoint, and introspection says no groups of it.
//   POST /test/rotate  {keep} new keys for a new Provider over the same store; old ones published still if `keep`.

import { randomBytes } from 'node:crypto';
import { renameSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { parseArgs } from 'node:util';

import { exportJWK, generateKeyPair } from 'jose';

// The provider warns through console.info too, and stdout is for one line of JSON.
console.log = console.info = console.error;
const { default: Provider } = await import('oidc-provider');

const API = 'https://api.acme.example';
const ALGORITHMS = ['RS256', 'PS256', 'ES256', 'EdDSA'];
const TOKEN_TTL_S = 600;
const BODY_BYTES_MAX = 64 * 1024;
const USERS = { __proto__: null, alice: ['platform-ops', 'plan-pro'], bob: ['plan-pro'], carol: undefined };

const { values: flags } = parseArgs({ options: { port: { type: 'string' }, 'port-file': { type: 'string' } } });
if (!/^\d{1,5}$/.test(flags.port ?? '')) {
  console.error('usage: node server.mjs --port N [--port-file F]');
  process.exit(2);
}

// What the user of a token is said to be; a user without groups has no groups claim, as with other providers.
function userClaims(user, groups = USERS[user]) {
  return {
    preferred_username: user,
    name: user.charAt(0).toUpperCase() + user.slice(1),
    email: `${user}@acme.example`,
    email_verified: true,
    ...(groups === undefined ? {} : { groups, realm_access: { roles: groups } }),
  };
}

// What /test/mint wants said by a token it is about to save.
const minted = new WeakMap();

function resourceServer(resource) {
  const scope = 'openid profile email groups offline_access read write';
  const common = { scope, audience: resource.startsWith(`${API}/`) ? API : resource, accessTokenTTL: TOKEN_TTL_S };
  if (resource === `${API}/opaque`) return { ...common, accessTokenFormat: 'opaque' };
  const alg = ALGORITHMS.find((name) => resource === `${API}/${name.toLowerCase()}`) ?? 'RS256';
  return { ...common, accessTokenFormat: 'jwt', jwt: { sign: { alg } } };
}

async function newKeys() {
  return Promise.all(
    ALGORITHMS.map(async (alg) => {
      const { privateKey } = await generateKeyPair(alg, { extractable: true });
      return { ...(await exportJWK(privateKey)), kid: `${alg.toLowerCase()}-${randomBytes(6).toString('hex')}`, alg, use: 'sig' };
    }),
  );
}

const escaped = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

function page(title, body) {
  return `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>${escaped(title)}</title></head>
<body><main><h1>${escaped(title)}</h1>${body}</main></body></html>\n`;
}

const cookieKeys = [randomBytes(32).toString('hex')];

function configuration(keys) {
  return {
    jwks: { keys },
    clients: [
      {
        client_id: 'web',
        client_secret: 'web-secret',
        grant_types: ['authorization_code', 'refresh_token'],
        redirect_uris: ['http://127.0.0.1/callback', 'http://localhost/callback'],
        response_types: ['code'],
      },
      {
        client_id: 'tollgate',
        client_secret: 'tollgate-secret',
        grant_types: ['client_credentials'],
        redirect_uris: [],
        response_types: [],
      },
    ],
    cookies: {
      keys: cookieKeys,
      // Cookies ignore ports, so these also reach an application on 127.0.0.1: they must not meet its own.
      names: { session: 'idp_session', interaction: 'idp_interaction', resume: 'idp_resume' },
    },
    scopes: ['openid', 'offline_access', 'read', 'write'],
    claims: {
      openid: ['sub'],
      profile: ['name', 'preferred_username'],
      email: ['email', 'email_verified'],
      groups: ['groups', 'realm_access'],
    },
    // Or the ID token of the code flow would leave its claims to the userinfo endpoint.
    conformIdTokenClaims: false,
    findAccount: async (ctx, id) => ({ accountId: id, claims: async () => ({ sub: id, ...userClaims(id) }) }),
    extraTokenClaims: async (ctx, token) =>
      minted.get(token)?.extra ?? (token.accountId ? userClaims(token.accountId) : undefined),
    formats: {
      customizers: {
        async jwt(ctx, token, jwt) {
          for (const [name, value] of Object.entries(minted.get(token)?.claims ?? {})) {
            if (value === null) delete jwt.payload[name];
            else jwt.payload[name] = value;
          }
        },
      },
    },
    features: {
      devInteractions: { enabled: false },
      introspection: { enabled: true },
      revocation: { enabled: true },
      registration: { enabled: true },
      clientCredentials: { enabled: true },
      // 8.x calls loopback addresses as it calls any other; from 9 on, `fetch` has to be replaced for this to work.
      backchannelLogout: { enabled: true },
      rpInitiatedLogout: {
        enabled: true,
        logoutSource: async (ctx, form) => {
          const button = '<button type="submit" form="op.logoutForm" name="logout" value="yes">Sign out</button>';
          ctx.body = page('Sign out?', form + button);
        },
        postLogoutSuccessSource: async (ctx) => {
          ctx.body = page('Signed out', '');
        },
      },
      resourceIndicators: {
        enabled: true,
        defaultResource: async () => undefined,
        useGrantedResource: async () => true,
        getResourceServerInfo: async (ctx, resource) => resourceServer(resource),
      },
    },
    // No consent page: whoever signs in has agreed to whatever this client asks.
    loadExistingGrant: async (ctx) => {
      const { client, session, params, provider } = ctx.oidc;
      const existing = session.grantIdFor(client.clientId);
      const grant =
        (existing && (await provider.Grant.find(existing))) ??
        new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
      grant.addOIDCScope('openid profile email groups offline_access read write');
      for (const resource of [params.resource ?? []].flat()) grant.addResourceScope(resource, resourceServer(resource).scope);
      await grant.save();
      return grant;
    },
    interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
    issueRefreshToken: async (ctx, client) => client.grantTypeAllowed('refresh_token'),
    pkce: { required: () => true, methods: ['S256'] },
    ttl: { AccessToken: TOKEN_TTL_S, ClientCredentials: TOKEN_TTL_S, IdToken: TOKEN_TTL_S, AuthorizationCode: 60,
      Grant: 86400, Interaction: 600, Session: 86400, RefreshToken: 28800 },
    renderError: async (ctx, out) => {
      ctx.type = 'html';
      ctx.body = page('That did not work', `<p role="alert">${escaped(JSON.stringify(out))}</p>`);
    },
  };
}

async function body(req) {
  let text = '';
  for await (const chunk of req.setEncoding('utf8')) {
    text += chunk;
    if (text.length > BODY_BYTES_MAX) throw new Error(`expected at most ${BODY_BYTES_MAX} bytes`);
  }
  return text;
}

function send(res, status, type, text) {
  res.writeHead(status, { 'content-type': `${type}; charset=utf-8`, 'cache-control': 'no-store' }).end(text);
}

let issuer;
let keys;
let provider;
let answer;

async function rotate(keep) {
  // The key in front is the one that signs.
  keys = [...(await newKeys()), ...(keep ? keys : [])];
  provider = new Provider(issuer, configuration(keys));
  answer = provider.callback();
  provider.on('server_error', (ctx, error) => console.error(error));
  provider.on('backchannel.error', (ctx, error) => console.error(`back-channel logout failed: ${error.message}`));
}

async function mint(asked) {
  const { user, groups, scope = 'openid', aud = API, ttl = TOKEN_TTL_S, alg = 'RS256', client_id = 'web', claims } = asked;
  if (typeof user !== 'string') throw new Error('expected user');
  if (alg !== 'opaque' && !ALGORITHMS.includes(alg)) throw new Error(`alg: expected opaque ${ALGORITHMS.join(' ')}`);
  const client = await provider.Client.find(client_id);
  if (!client) throw new Error(`client_id: there is no ${client_id}`);
  if (aud === null) {
    // For no resource server: opaque, without a word about the user, and good for the userinfo endpoint only.
    const grant = new provider.Grant({ clientId: client.clientId, accountId: user });
    grant.addOIDCScope(scope);
    const grantId = await grant.save();
    const token = new provider.AccessToken({ accountId: user, client, scope, expiresIn: ttl, gty: 'test', grantId });
    minted.set(token, { extra: {} });
    return token.save();
  }
  // The model takes one audience; a list goes in over it.
  const [first] = [aud].flat();
  const server = { ...resourceServer(`${API}/${alg.toLowerCase()}`), audience: first };
  const token = new provider.AccessToken({ accountId: user, client, scope, expiresIn: ttl, gty: 'test' });
  token.resourceServer = new provider.ResourceServer(first, server);
  minted.set(token, { extra: userClaims(user, groups), claims: { ...(Array.isArray(aud) ? { aud } : {}), ...claims } });
  return token.save();
}

async function login(req, res) {
  const details = await provider.interactionDetails(req, res);
  let problem = '';
  if (req.method === 'POST') {
    const form = new URLSearchParams(await body(req));
    const user = form.get('username');
    if (Object.hasOwn(USERS, user) && form.get('password') === user) {
      return provider.interactionFinished(req, res, { login: { accountId: user } });
    }
    problem = '<p role="alert">The password is not right.</p>';
  }
  send(res, problem ? 403 : 200, 'text/html', page('Sign in', `${problem}
<form method="post" action="/interaction/${escaped(details.uid)}">
<p><label>User <input name="username" autocomplete="username" required autofocus></label></p>
<p><label>Password <input name="password" type="password" autocomplete="current-password" required></label></p>
<p><button type="submit">Sign in</button></p></form>`));
}

const server = createServer(async (req, res) => {
  try {
    const { pathname } = new URL(req.url, issuer);
    if (req.method === 'POST' && pathname === '/test/mint') {
      send(res, 200, 'text/plain', await mint(JSON.parse(await body(req))));
    } else if (req.method === 'POST' && pathname === '/test/rotate') {
      await rotate(JSON.parse((await body(req)) || '{}').keep === true);
      send(res, 200, 'application/json', JSON.stringify({ kids: keys.map((key) => key.kid) }));
    } else if (pathname.startsWith('/interaction/')) {
      await login(req, res);
    } else {
      await answer(req, res);
    }
  } catch (error) {
    console.error(error);
    if (!res.headersSent) send(res, 400, 'text/plain', `${error.message}\n`);
  }
});

const leave = () => process.exit(0);
process.on('SIGTERM', leave);
process.on('SIGINT', leave);
process.stdin.on('end', leave).on('close', leave).on('error', leave).resume();

server.on('error', (error) => {
  console.error(`cannot listen on 127.0.0.1:${flags.port}: ${error.message}`);
  process.exit(1);
});
server.listen(Number(flags.port), '127.0.0.1', async () => {
  const { port } = server.address();
  issuer = `http://127.0.0.1:${port}`;
  await rotate(false);
  if (flags['port-file']) {
    // Renamed into place: whoever waits for the file never reads half of it.
    writeFileSync(`${flags['port-file']}.new`, `${port}\n`);
    renameSync(`${flags['port-file']}.new`, flags['port-file']);
  }
  process.stdout.write(`${JSON.stringify({ issuer, pid: process.pid })}\n`);
});
