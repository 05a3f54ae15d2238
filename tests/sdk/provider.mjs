// provider.mjs PORT [--resource URL]... : an authorization server (oidc-provider) for the tests of identity.
//
// Clients `rs`, `es`, `ed`, `ed25519` and `bound` have the secret `secret`; they get access tokens (RFC 9068) signed with
// RS256, ES256, EdDSA and, by the name of RFC 9864, Ed25519. Those of the last one are of ES256 and bound to its
// certificate (RFC 8705), which it shows in the header `x-test-certificate`, as a TLS terminator would. Any resource is
// known, with two scopes. A public client registers itself (RFC 7591), and its user agrees to everything at once.
//
// What a real provider does not do is below /test: `rotate` replaces all keys, `keep` adds new ones beside the old,
// `sign` signs what it is told, and `counts` says how often the keys and the metadata were fetched.
import { require, listen } from './packages.mjs';

const { Provider, interactionPolicy } = await import(require.resolve('oidc-provider'));
const jose = require('jose');
const crypto = require('node:crypto');

const SCOPES = 'tools:read tools:write';
const ALGORITHMS = { rs: 'RS256', es: 'ES256', ed: 'EdDSA', ed25519: 'Ed25519', bound: 'ES256' };

const counts = { keys: 0, metadata: 0 };
let generation = 0;
let keys = {};
let kept = [];
let handler;
let issuer;

async function makeKeys() {
  generation += 1;
  for (const [name, algorithm] of [['rs', 'RS256'], ['es', 'ES256'], ['ed', 'Ed25519']]) {
    const { privateKey } = await jose.generateKeyPair(algorithm, { extractable: true });
    keys[name] = { ...(await jose.exportJWK(privateKey)), kid: `${name}-${generation}`, use: 'sig' };
  }
}

function provider() {
  const { base } = interactionPolicy;
  const made = new Provider(issuer, {
    adapter: undefined,
    clients: Object.keys(ALGORITHMS).map(name => ({
      client_id: name,
      client_secret: 'secret',
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
      tls_client_certificate_bound_access_tokens: name === 'bound',
    })),
    clientDefaults: { id_token_signed_response_alg: 'RS256' },
    enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256', 'EdDSA', 'Ed25519'] },
    jwks: { keys: [...Object.values(keys), ...kept] },
    scopes: ['openid', 'offline_access', ...SCOPES.split(' ')],
    pkce: { required: () => true },
    clientBasedCORS: () => false,
    findAccount: (context, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    extraTokenClaims: (context, token) => ({ tenant: 'acme', roles: ['reader'], client: token.clientId }),
    interactions: { policy: base(), url: (context, interaction) => `/interaction/${interaction.uid}` },
    ttl: { AccessToken: 300, ClientCredentials: 300, Grant: 600, Interaction: 600, Session: 600, IdToken: 300 },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      introspection: { enabled: true },
      registration: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: (context, client, one) => one ?? 'urn:none',
        useGrantedResource: () => true,
        getResourceServerInfo: (context, resource, client) => ({
          scope: SCOPES,
          audience: resource,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: ALGORITHMS[client.clientId] ?? 'ES256' } },
        }),
      },
      mTLS: {
        enabled: true,
        certificateBoundAccessTokens: true,
        getCertificate: context => {
          const shown = context.get('x-test-certificate');
          return shown ? new crypto.X509Certificate(decodeURIComponent(shown)) : undefined;
        },
      },
    },
  });
  made.on('server_error', (context, error) => console.error(error));
  return made;
}

/** The user who agrees to everything: signed in as `anna`, all scopes granted. */
async function agree(made, request, response) {
  const { prompt, params, grantId } = await made.interactionDetails(request, response);
  if (prompt.name === 'login') {
    return made.interactionFinished(request, response, { login: { accountId: 'anna' } });
  }
  const grant = grantId
    ? await made.Grant.find(grantId)
    : new made.Grant({ accountId: 'anna', clientId: params.client_id });
  grant.addOIDCScope(`openid offline_access ${SCOPES}`);
  grant.addResourceScope(params.resource, SCOPES);
  return made.interactionFinished(request, response, { consent: { grantId: await grant.save() } });
}

/**
 * What is asked for in the query: header, claims (`iss`, `iat` and `exp` are filled in, `null` takes them out, and
 * `age` makes them that many seconds older), and how it is signed: `as` names one of our keys, `none` signs nothing,
 * `hmac` takes the PEM of the RSA public key for a secret, `stranger` a key that was never published.
 */
async function sign(query) {
  const { header = {}, claims = {}, as = 'rs', age = 0 } = JSON.parse(query.get('q'));
  const now = Math.floor(Date.now() / 1000) - age;
  const payload = { iss: issuer, iat: now, exp: now + 300, sub: as, client_id: as, jti: crypto.randomUUID(), ...claims };
  for (const name of Object.keys(payload)) if (payload[name] === null) delete payload[name];
  const part = value => jose.base64url.encode(JSON.stringify(value));
  if (as === 'none') return `${part({ alg: 'none', typ: 'at+jwt', ...header })}.${part(payload)}.`;
  if (as === 'hmac') {
    const head = { alg: 'HS256', typ: 'at+jwt', kid: keys.rs.kid, ...header };
    const { kty, n, e } = keys.rs;
    const secret = crypto.createPublicKey({ key: { kty, n, e }, format: 'jwk' }).export({ type: 'spki', format: 'pem' });
    const text = `${part(head)}.${part(payload)}`;
    return `${text}.${crypto.createHmac('sha256', secret).update(text).digest('base64url')}`;
  }
  const stranger = as === 'stranger' && (await jose.generateKeyPair('RS256', { extractable: true })).privateKey;
  const { kid } = keys[stranger ? 'rs' : as];
  const head = { alg: ALGORITHMS[as] ?? 'RS256', typ: 'at+jwt', kid, ...header };
  const key = stranger || (await jose.importJWK(keys[as], head.alg));
  return new jose.SignJWT(payload).setProtectedHeader(head).sign(key);
}

async function control(url, response) {
  const answer = value => response.setHeader('content-type', 'application/json').end(JSON.stringify(value));
  switch (url.pathname) {
    case '/test/rotate':
      kept = [];
      await makeKeys();
      break;
    case '/test/keep':
      kept = [...kept, ...Object.values(keys)];
      keys = {};
      await makeKeys();
      break;
    case '/test/sign':
      return answer({ token: await sign(url.searchParams) });
    case '/test/counts':
      return answer(counts);
    default:
      return response.writeHead(404).end();
  }
  handler = provider();
  answer({ generation });
}

async function serve(request, response) {
  const url = new URL(request.url, 'http://provider');
  if (url.pathname.startsWith('/test/')) return control(url, response);
  if (url.pathname.startsWith('/interaction/')) return agree(handler, request, response);
  if (url.pathname === '/jwks') counts.keys += 1;
  if (url.pathname.startsWith('/.well-known/')) counts.metadata += 1;
  return handler.callback()(request, response);
}

await makeKeys();
const port = await listen(process.argv[2], (request, response) => {
  serve(request, response).catch(error => {
    console.error(error);
    response.destroy();
  });
});
issuer = `http://127.0.0.1:${port}`;
handler = provider();
