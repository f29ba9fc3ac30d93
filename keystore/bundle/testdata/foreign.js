// Opens and makes bundles with jose alone: NODE_PATH=/usr/share/nodejs node foreign.js open|make < JSON > JSON
const jose = require("jose");
const asked = JSON.parse(require("fs").readFileSync(0, "utf8"));
const bytes = (text) => new TextEncoder().encode(text);

async function run() {
  const key = asked.jwk ? await jose.importJWK(asked.jwk, "ECDH-ES+A256KW") : bytes(asked.passphrase);
  if (process.argv[2] === "open") {
    const outer = await jose.compactDecrypt(asked.bundle, key, { maxPBES2Count: 1000000 });
    const inner = new TextDecoder().decode(outer.plaintext);
    const signer = jose.decodeProtectedHeader(inner).jwk;
    const { payload } = await jose.compactVerify(inner, await jose.importJWK(signer, "EdDSA"), { algorithms: ["EdDSA"] });
    return { from: await jose.calculateJwkThumbprint(signer), set: JSON.parse(new TextDecoder().decode(payload)) };
  }
  const pair = await jose.generateKeyPair("EdDSA");
  const jwk = await jose.exportJWK(pair.publicKey);
  const inner = await new jose.CompactSign(bytes(JSON.stringify(asked.set)))
    .setProtectedHeader({ alg: "EdDSA", typ: "keytide-bundle", jwk }).sign(pair.privateKey);
  const outer = new jose.CompactEncrypt(bytes(inner))
    .setProtectedHeader({ alg: asked.jwk ? "ECDH-ES+A256KW" : "PBES2-HS512+A256KW", enc: "A256CBC-HS512" });
  return { from: await jose.calculateJwkThumbprint(jwk), bundle: await outer.encrypt(key) };
}

run().then((answer) => process.stdout.write(JSON.stringify(answer)));
