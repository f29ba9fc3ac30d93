"""Opens and makes bundles with jwcrypto alone: python3 foreign.py open|make < JSON > JSON."""
import json
import sys

from jwcrypto import jwe, jwk, jws

asked = json.load(sys.stdin)
key = jwk.JWK.from_json(json.dumps(asked["jwk"])) if "jwk" in asked else jwk.JWK.from_password(asked["passphrase"])
algs = ["PBES2-HS512+A256KW", "ECDH-ES+A256KW", "A256CBC-HS512"]
if sys.argv[1] == "open":
    outer = jwe.JWE(algs=algs)
    outer.deserialize(asked["bundle"], key)
    inner = jws.JWS()
    inner.deserialize(outer.payload.decode())
    signer = jwk.JWK.from_json(json.dumps(inner.jose_header["jwk"]))
    inner.verify(signer, alg="EdDSA")
    json.dump({"from": signer.thumbprint(), "set": json.loads(inner.payload)}, sys.stdout)
else:
    signer = jwk.JWK.generate(kty="OKP", crv="Ed25519")
    inner = jws.JWS(json.dumps(asked["set"]))
    inner.add_signature(signer, None, json.dumps(
        {"alg": "EdDSA", "typ": "keytide-bundle", "jwk": json.loads(signer.export_public())}))
    alg = "ECDH-ES+A256KW" if "jwk" in asked else "PBES2-HS512+A256KW"
    outer = jwe.JWE(inner.serialize(compact=True), json.dumps({"alg": alg, "enc": "A256CBC-HS512"}), algs=algs)
    outer.add_recipient(key)
    json.dump({"from": signer.thumbprint(), "bundle": outer.serialize(compact=True)}, sys.stdout)
