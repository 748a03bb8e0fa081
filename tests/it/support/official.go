// Says whether a request, given as JSON on standard input, is verified: with a secret by the official Standard Webhooks
// library; with a public key, which its release doesn't know, by Go's own Ed25519 as the specification says.
package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

type question struct {
	Secret  string            `json:"secret"`
	Headers map[string]string `json:"headers"`
	Signed  []byte            `json:"signed"`
}

func main() {
	var asked question
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		fmt.Println(err)
		return
	}
	if err := verify(asked); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("verified")
}

func verify(asked question) error {
	headers := http.Header{}
	for name, value := range asked.Headers {
		headers.Set(name, value)
	}
	if encoded, isPublic := strings.CutPrefix(asked.Secret, "whpk_"); isPublic {
		return verifyWithPublicKey(encoded, headers, asked.Signed)
	}
	webhook, err := standardwebhooks.NewWebhook(asked.Secret)
	if err != nil {
		return err
	}
	return webhook.Verify(asked.Signed, headers)
}

func verifyWithPublicKey(encoded string, headers http.Header, signed []byte) error {
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return err
	}
	head := headers.Get("webhook-id") + "." + headers.Get("webhook-timestamp") + "."
	content := append([]byte(head), signed...)
	for _, entry := range strings.Split(headers.Get("webhook-signature"), " ") {
		scheme, text, _ := strings.Cut(entry, ",")
		signature, err := base64.StdEncoding.DecodeString(text)
		if err == nil && scheme == "v1a" && ed25519.Verify(key, content, signature) {
			return nil
		}
	}
	return standardwebhooks.ErrNoMatchingSignature
}
