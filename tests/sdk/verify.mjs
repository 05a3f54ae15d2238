// verify.mjs TOKEN URL ISSUER AUDIENCE : verifies a token with the keys at a URL, as an MCP server would.
//
// Prints its claims as JSON. Exit 1: it is not what it should be.
import { require } from './packages.mjs';

const { createRemoteJWKSet, jwtVerify } = require('jose');

const [token, url, issuer, audience] = process.argv.slice(2);
const { payload } = await jwtVerify(token, createRemoteJWKSet(new URL(url)), { issuer, audience });
console.log(JSON.stringify(payload));
