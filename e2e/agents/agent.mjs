// A small Keytide agent, from agentfeed/SPEC.md alone: node agent.mjs HOST-FILE [SECONDS between polls; without, it streams]
//
// Prints a JSON line for each state, with kids and never with keys. Node's own modules have all that it needs. Being small,
// it leaves out: servers and certificates that a state names, the correction of a wrong clock, longer waits that a server
// asks for (retry, bye, Retry-After, refusals), and age.
import { createDecipheriv, createHmac, hkdfSync, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { Agent, request } from "node:https";
import { setTimeout as sleep } from "node:timers/promises";

const file = { servers: "", ca: "" }; // section 8
let key = "";
for (let line of readFileSync(process.argv[2], "utf8").split("\n").filter((l) => l.trim() && l[0] !== "#")) {
  if (!/^[ -]/.test(line)) [, key, line] = line.match(/^(\w+):(.*)/);
  file[key] = (file[key] ?? "") + line.trim().replace(/^[|"]|"$/g, "") + "\n";
}
const host = file.host.trim(), kid = file.kid.trim(), secret = Buffer.from(file.secret.trim(), "base64url");
const servers = file.servers.trim().split("\n").map((s) => s.replace(/^- *"?|"$/g, ""));
const pause = Number(process.argv[3] ?? 0), keep = new Agent({ keepAlive: true, ca: file.ca, minVersion: "TLSv1.3" });
const mac = (key, text) => createHmac("sha256", key).update(text).digest();
const hkdf = (salt, info) => Buffer.from(hkdfSync("sha256", secret, salt, info, 32));
const numbers = (v) => v.split("-").map((half) => half.split(".").map(Number));
const before = (a, b) => a[0] < b[0] || (a[0] === b[0] && a[1] < b[1]);
let held = "", rings = {};

function take(event, e, n, sealKey) { // sections 3 and 5
  const ct = Buffer.from(e.ct, "base64url"), gcm = createDecipheriv("aes-256-gcm", sealKey, ct.subarray(0, 12));
  gcm.setAAD(Buffer.from(`keytide/v1|${event}|${host}|${e.v}|${n}`)).setAuthTag(ct.subarray(-16));
  const plain = JSON.parse(Buffer.concat([gcm.update(ct.subarray(12, -16)), gcm.final()]));
  if (held && numbers(e.v).some((half, i) => before(half, numbers(held)[i]))) throw Error("the server is behind");
  if (event === "ring") {
    for (const r of plain.rings)
      if (plain.v !== e.v || before([r.epoch, r.version], rings[r.name] ?? [0, 0]) || r.keys.filter((k) => k.seals).length > 1
        || r.keys.some((k) => mac(Buffer.from(k.k, "base64url"), "kt1 kid\x01").toString("hex", 0, 8) !== k.kid)) throw Error("a state to refuse");
    rings = Object.fromEntries(plain.rings.map((r) => [r.name, [r.epoch, r.version]]));
    console.log(JSON.stringify({ v: e.v, rings: plain.rings.map(({ name, version, keys }) =>
      ({ name, version, keys: keys.map(({ role, kid }) => ({ role, kid })) })) }));
  }
  held = e.v;
}

function ask(base, nonce) { // section 2
  const ts = Math.floor(Date.now() / 1000), applied = held && [`applied=${held}`];
  const proof = mac(hkdf("", `keytide/v1 auth|${host}`), ["KEYTIDE1", "GET", "/v1/feed", host, kid, ts, nonce.toString("base64url"), ...applied].join("\n"));
  const headers = { Accept: pause ? "application/json" : "text/event-stream", ...(pause && held && { "If-None-Match": `"${held}"` }),
    Authorization: `KEYTIDE1-HMAC-SHA256 host="${host}", kid="${kid}", ts="${ts}", nonce="${nonce.toString("base64url")}", `
      + `mac="${proof.toString("base64url")}"` + (held && `, applied="${held}"`) };
  return new Promise((resolve, reject) => {
    const asked = request(`${base}/v1/feed`, { agent: keep, headers }, resolve).on("error", reject);
    asked.setTimeout(10000, () => asked.destroy(Error("the server is silent")));
    asked.end();
  });
}

async function session(base) {
  for (;;) { // polls again over the same connection
    const nonce = randomBytes(16), answer = await ask(base, nonce);
    const sealKey = (sn) => hkdf(Buffer.concat([nonce, Buffer.from(sn, "base64url")]), `keytide/v1 seal|${host}`);
    const body = async () => (await answer.toArray()).join("");
    if (![200, 304].includes(answer.statusCode)) throw Error(await body());
    if (pause) { // section 6
      const text = await body(), e = JSON.parse(answer.statusCode === 200 ? text : answer.headers["keytide-heartbeat"]);
      take(answer.statusCode === 200 ? "ring" : "hb", e, 1, sealKey(e.sn));
      await sleep(1000 * pause * (0.8 + 0.4 * Math.random()));
      continue;
    }
    let event, hello, timer, rest = "", n = 0; // section 4
    const patience = (seconds) => {
      clearTimeout(timer);
      timer = setTimeout(() => answer.destroy(Error("the server is silent")), 1000 * seconds);
    };
    answer.setTimeout(0);
    patience(5);
    try {
      for await (const chunk of answer.setEncoding("utf8")) {
        const lines = (rest + chunk).split("\n");
        rest = lines.pop();
        for (const [, field, value] of lines.map((line) => line.match(/^(\w+): (.*)/) ?? [])) {
          if (field === "event") event = value;
          if (field !== "data") continue;
          if (event === "bye" || event === "problem") throw Error(value);
          if (event === "hello") { hello = JSON.parse(value); patience(10); }
          if (event !== "ring" && event !== "hb") continue;
          take(event, JSON.parse(value), ++n, sealKey(hello.sn));
          patience(2.5 * Math.min(Math.max(hello.hb, 0.1), 60));
        }
      }
    } finally { clearTimeout(timer); }
    throw Error("the stream has ended");
  }
}

for (let failures = 0, i = 0; ; i++) {
  const began = Date.now(), base = servers[i % servers.length];
  await session(base).catch((e) => console.error(`${base}: ${e.message}`));
  failures = Date.now() - began > 60000 ? 0 : Math.min(failures + 1, 6);
  await sleep(1000 * Math.random() * Math.min(30, 0.5 * 2 ** failures));
}
