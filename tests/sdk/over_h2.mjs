// over_h2.mjs: loaded before a program (NODE_OPTIONS=--import), it lets `fetch` agree on HTTP/2 in the TLS handshake.
await fetch('data:,'); // Node makes its dispatcher on first use
const dispatcher = Symbol.for('undici.globalDispatcher.1');
const Agent = globalThis[dispatcher].constructor;
globalThis[dispatcher] = new Agent({ allowH2: true });
