// Says whether a request, given as JSON on standard input, is verified: with a secret by the official Standard Webhooks
// library; with a public key, which it doesn't know, by Node's own Ed25519 as the specification says.
//
// The argument is the folder that the library is installed in.

import { createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { Webhook } = createRequire(process.argv[2] + "/")("standardwebhooks");

function verifyWithPublicKey(publicKey, headers, signed) {
  const raw = Buffer.from(publicKey.slice("whpk_".length), "base64");
  const key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x: raw.toString("base64url") }, format: "jwk" });
  const head = `${headers["webhook-id"]}.${headers["webhook-timestamp"]}.`;
  const content = Buffer.concat([Buffer.from(head), signed]);
  const isMatch = headers["webhook-signature"].split(" ").some((entry) => {
    const [scheme, signature] = entry.split(",");
    return scheme === "v1a" && verify(null, content, key, Buffer.from(signature, "base64"));
  });
  if (!isMatch) throw new Error("No matching signature found");
}

const { secret, headers, signed } = JSON.parse(readFileSync(0, "utf8"));
const body = Buffer.from(signed, "base64");
try {
  if (secret.startsWith("whpk_")) verifyWithPublicKey(secret, headers, body);
  else new Webhook(secret).verify(body, headers, { jsonParse: false });
  console.log("verified");
} catch (error) {
  console.log(error.message);
}
