#!/usr/bin/env python3
"""A small Keytide agent, from agentfeed/SPEC.md alone: agent.py HOST-FILE [SECONDS between polls; without, it streams]

Prints a JSON line for each state, with kids and never with keys. Python's standard library has no AES-GCM, so that is
OpenSSL's libcrypto, called by ctypes. Being small, it leaves out: servers and certificates that a state names, the
correction of a wrong clock, longer waits that a server asks for (retry, bye, Retry-After, refusals), and age."""
import base64, ctypes, ctypes.util, hmac, http.client, json, os, random, ssl, sys, time, urllib.parse

crypto, pointer = ctypes.CDLL(ctypes.util.find_library("crypto")), ctypes.c_void_p
crypto.EVP_CIPHER_CTX_new.restype = crypto.EVP_aes_256_gcm.restype = pointer

def gcm_open(key, ct, aad):
    out, n, ctx = ctypes.create_string_buffer(len(ct)), ctypes.c_int(), pointer(crypto.EVP_CIPHER_CTX_new())
    ok = (crypto.EVP_DecryptInit_ex(ctx, pointer(crypto.EVP_aes_256_gcm()), None, key, ct[:12]) == 1
          and crypto.EVP_DecryptUpdate(ctx, None, ctypes.byref(n), aad, len(aad)) == 1
          and crypto.EVP_DecryptUpdate(ctx, out, ctypes.byref(n), ct[12:-16], len(ct) - 28) == 1
          and crypto.EVP_CIPHER_CTX_ctrl(ctx, 0x11, 16, ct[-16:]) == 1  # EVP_CTRL_AEAD_SET_TAG
          and crypto.EVP_DecryptFinal_ex(ctx, None, ctypes.byref(n)) == 1)
    crypto.EVP_CIPHER_CTX_free(ctx)
    if not ok: raise ValueError("a message does not open")
    return out.raw[:len(ct) - 28]

def mac(key, data): return hmac.digest(key, data if isinstance(data, bytes) else data.encode(), "sha256")
def hkdf(secret, salt, info): return mac(mac(salt, secret), info + "\1")
def b64(raw): return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
def unb64(text): return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
def numbers(v): return [[int(n) for n in half.split(".")] for half in v.split("-")]

file, key = {"servers": "", "ca": ""}, ""  # section 8
for line in filter(lambda l: l.strip() and l[0] != "#", open(sys.argv[1])):
    if line[0] != " " and line[0] != "-": key, line = line.split(":", 1)
    file[key] = file.get(key, "") + line.strip().strip('|"') + "\n"
host, kid, secret = file["host"].strip(), file["kid"].strip(), unb64(file["secret"].strip())
servers = [s.lstrip("- ").strip('"') for s in file["servers"].split("\n") if s]
pause, held, rings = float(sys.argv[2]) if len(sys.argv) > 2 else None, "", {}

def take(event, e, n, seal_key):  # sections 3 and 5
    global held, rings
    plain = json.loads(gcm_open(seal_key, unb64(e["ct"]), f'keytide/v1|{event}|{host}|{e["v"]}|{n}'.encode()))
    if held and any(new < old for new, old in zip(numbers(e["v"]), numbers(held))): raise ValueError("the server is behind")
    if event == "ring":
        for r in plain["rings"]:
            if (plain["v"] != e["v"] or (r["epoch"], r["version"]) < rings.get(r["name"], (0, 0)) or sum(k["seals"] for k in r["keys"]) > 1
                    or any(mac(unb64(k["k"]), "kt1 kid\1")[:8].hex() != k["kid"] for k in r["keys"])): raise ValueError("a state to refuse")
        rings = {r["name"]: (r["epoch"], r["version"]) for r in plain["rings"]}
        print(json.dumps({"v": e["v"], "rings": [{"name": r["name"], "version": r["version"], "keys": [
            {"role": k["role"], "kid": k["kid"]} for k in r["keys"]]} for r in plain["rings"]]}), flush=True)
    held = e["v"]

def session(base):
    tls = ssl.create_default_context(cadata=file["ca"])
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    connection = http.client.HTTPSConnection(urllib.parse.urlsplit(base).netloc, timeout=10, context=tls)
    connection.connect()
    while True:  # polls again over the same connection
        sock, nonce, ts = connection.sock, os.urandom(16), str(int(time.time()))  # section 2
        lines = ["KEYTIDE1", "GET", "/v1/feed", host, kid, ts, b64(nonce)] + ["applied=" + held] * bool(held)
        proof = b64(mac(hkdf(secret, b"", "keytide/v1 auth|" + host), "\n".join(lines)))
        connection.request("GET", "/v1/feed", headers={
            "Accept": "application/json" if pause else "text/event-stream", **({"If-None-Match": f'"{held}"'} if pause and held else {}), "Authorization":
            f'KEYTIDE1-HMAC-SHA256 host="{host}", kid="{kid}", ts="{ts}", nonce="{b64(nonce)}", mac="{proof}"' + f', applied="{held}"' * bool(held)})
        answer, seal_key = connection.getresponse(), lambda sn: hkdf(secret, nonce + unb64(sn), "keytide/v1 seal|" + host)
        if answer.status not in (200, 304): raise ValueError(answer.read())
        if pause:  # section 6
            e = json.loads(answer.read() if answer.status == 200 else answer.headers["Keytide-Heartbeat"])
            take("ring" if answer.status == 200 else "hb", e, 1, seal_key(e["sn"]))
            time.sleep(pause * random.uniform(0.8, 1.2))
            continue
        event, n, hello, deadline = "", 0, None, time.monotonic() + 5  # section 4
        while line := answer.readline(1 << 20).decode():
            field, _, value = line.strip().partition(": ")
            if field == "event": event = value
            if field == "data" and event in ("bye", "problem"): raise ValueError(line)
            if field == "data" and event == "hello": hello, deadline = json.loads(value), time.monotonic() + 10
            if field == "data" and event in ("ring", "hb"):
                take(event, json.loads(value), n := n + 1, seal_key(hello["sn"]))
                deadline = time.monotonic() + 2.5 * min(max(hello["hb"], 0.1), 60)
            sock.settimeout(max(0.001, deadline - time.monotonic()))
        raise ValueError("the stream has ended")

failures = 0
while True:
    for base in servers:
        began = time.monotonic()
        try: session(base)
        except Exception as e: print(f"{base}: {e}", file=sys.stderr, flush=True)
        failures = 0 if time.monotonic() - began > 60 else min(failures + 1, 6)
        time.sleep(random.uniform(0, min(30, 0.5 * 2 ** failures)))
