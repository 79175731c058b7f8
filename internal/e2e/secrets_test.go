package e2e

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What is secret is in no file of the data directory but the key files, in no log
// line and in no answer but the one that made it. And a new seal key seals it all
// anew, after which the old key is gone.
func TestSecretsAreNowhereInClear(t *testing.T) {
	t.Parallel()
	p := newPlatform(t, filepath.Join(t.TempDir(), "data"), "--log-level", "debug")
	p.start()
	p.ready()
	s := newSink(t, func(n int, _ *received) int {
		if n == 1 {
			return http.StatusInternalServerError // so that there is a retry to log
		}
		return http.StatusOK
	})
	secrets := map[string]string{
		"the admin key": p.key, "a source's secret": "hush-source-7f3a91", "a subscription's secret": "hush-subscription-55b1e0",
		"an interceptor's value": "hush-header-90cc1d", "a client secret": "hush-client-1b7d2a", "a password": "hush-password-c4408f",
		"a header's value": "hush-value-2e8c04", "a bearer's token": "hush-bearer-b61d7f",
		"a basic password": "hush-basic-08afc2", "an OAuth2 secret": "hush-oauth-d97e31", "a token of NATS": "hush-nats-6c20b8",
	}
	p.must("PUT", "/api/v1/sources/github", `{"kind":"GITHUB","secrets":["`+secrets["a source's secret"]+`"]}`)
	p.must("PUT", "/api/v1/subscriptions/all", `{"types":["#"],"direction":"INCOMING","secrets":["`+secrets["a subscription's secret"]+`"],"destination":{"webhook":{"url":"`+s.URL+`",
		"headers":{"X-Key":"`+secrets["a header's value"]+`"},"auth":{"bearer":{"token":"`+secrets["a bearer's token"]+`"}}}}}`)
	for name, destination := range map[string]string{
		"basic":  `{"webhook":{"url":"https://erp.example/","auth":{"basic":{"username":"ann","password":"` + secrets["a basic password"] + `"}}}}`,
		"oauth2": `{"webhook":{"url":"https://erp.example/","auth":{"oauth2":{"tokenUrl":"https://auth.example/","clientId":"me","clientSecret":"` + secrets["an OAuth2 secret"] + `"}}}}`,
		"nats":   `{"nats":{"url":"nats://n.example","subject":"a","token":"` + secrets["a token of NATS"] + `"}}`,
	} {
		p.must("PUT", "/api/v1/subscriptions/"+name, `{"types":["none.such"],"direction":"INCOMING","destination":`+destination+`}`)
	}
	// Refused, since they were given for another server, and quoted nowhere.
	p.api("PUT", "/api/v1/subscriptions/all", `{"types":["#"],"destination":{"webhook":{"url":"https://elsewhere.example/","headers":{"X-Key":"***"}}}}`)
	p.must("PUT", "/api/v1/authorizations/default", `{"oauth":{"url":"https://auth.example/","clientId":"me","clientSecret":"`+secrets["a client secret"]+`"}}`)
	p.must("PUT", "/api/v1/policies/guard", `{"security":{"flow":[{"headerValue":{"name":"X-Key","value":"`+secrets["an interceptor's value"]+`"}}]}}`)
	p.must("PUT", "/api/v1/sources/guarded", `{"kind":"GENERIC","type":"a.b","policy":"guard"}`)
	p.must("POST", "/api/v1/users", `{"name":"ann","roles":["events:read"],"password":"`+secrets["a password"]+`"}`)
	// Refused, and quoted nowhere.
	p.api("PUT", "/api/v1/users/ann", `{"roles":["nothing"],"password":"`+secrets["a password"]+`"}`)
	p.api("PUT", "/api/v1/sources/github", `{"kind":"GITHUB","type":"a..b","secrets":["`+secrets["a source's secret"]+`"]}`)
	secrets["an API key"] = field(t, p.must("POST", "/api/v1/keys", `{"name":"ci","roles":["events:read"]}`), "key")
	secrets["a token"] = field(t, p.must("POST", "/api/v1/signin", `{"name":"ann","password":"`+secrets["a password"]+`"}`), "token")

	body := `{"action":"opened"}`
	sign := func(secret string) string {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(body))
		return "sha256=" + hex.EncodeToString(mac.Sum(nil))
	}
	send := func(delivery, secret string) int {
		status, _, err := p.call("POST", "/events/github", body, "X-GitHub-Event", "issues", "X-GitHub-Delivery", delivery, "X-Hub-Signature-256", sign(secret))
		if err != nil {
			t.Fatal(err)
		}
		return status
	}
	if got := send("1", secrets["a source's secret"]); got != http.StatusAccepted {
		t.Fatalf("the webhook is answered %d, want 202", got)
	}
	if got := send("2", "wrong"); got != http.StatusUnauthorized {
		t.Errorf("a wrong signature is answered %d, want 401", got)
	}
	// Requests with credentials everywhere, for the recording of requests.
	maps.Copy(secrets, map[string]string{"a bearer token": "hush-bearer-17aa02", "a cookie": "hush-cookie-88d1f4", "a parameter": "hush-query-b04c9e", "a header": "hush-any-3f55d0"})
	for _, key := range []string{secrets["an interceptor's value"], "hush-guess-6e0d12"} {
		if _, _, err := p.call("POST", "/events/guarded?token="+secrets["a parameter"], `{}`, "X-Key", key, "Authorization", "Bearer "+secrets["a bearer token"],
			"Cookie", "sid="+secrets["a cookie"], "X-Whatever", secrets["a header"]); err != nil {
			t.Fatal(err)
		}
	}
	secrets["a wrong guess"] = "hush-guess-6e0d12"
	simulated := ""
	p.until("the requests are recorded", 20*time.Second, func() bool {
		simulated = p.must("POST", "/api/v1/policies/guard:simulate", `{"source":"guarded","lastRequests":5}`)
		return strings.Count(simulated, `"answered":`) == 2
	})
	if !strings.Contains(simulated, `"outcome":"allowed"`) || !strings.Contains(simulated, `"outcome":"refused"`) || !strings.Contains(simulated, "(stripped)") {
		t.Errorf("the recorded requests are simulated as %s", simulated)
	}
	p.until("it is delivered", 20*time.Second, func() bool { return s.count() >= 2 })
	for _, got := range s.all() {
		if got.header.Get("X-Key") != secrets["a header's value"] || got.header.Get("Authorization") != "Bearer "+secrets["a bearer's token"] {
			t.Errorf("the endpoint got headers %v, want those of the subscription", got.header)
		}
	}
	answers := simulated
	for _, path := range []string{
		"/sources", "/subscriptions", "/policies", "/authorizations", "/users", "/keys", "/audit", "/events", "/rejections", "/deadletters", "/sources/github", "/subscriptions/all", "/subscriptions/nats",
	} {
		answers += p.must("GET", "/api/v1"+path, "")
	}
	if err := p.stop(40 * time.Second); err != nil {
		t.Fatal(err)
	}
	logs := p.stdout.String() + p.stderr.String()
	for what, secret := range secrets {
		if strings.Contains(answers, secret) {
			t.Errorf("%s is in an answer", what)
		}
		if strings.Contains(logs, secret) {
			t.Errorf("%s is in the log", what)
		}
	}
	grep(t, p.dir, secrets)

	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(p.dir, "seal.key"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), bin, "sealkey", "rotate", "--data", p.dir).CombinedOutput(); err != nil {
		t.Fatalf("sealkey rotate: %v\n%s", err, out)
	}
	p.start()
	p.ready()
	p.until("the old key is gone", 20*time.Second, func() bool {
		_, err := os.Stat(filepath.Join(p.dir, "seal.key.old"))
		return os.IsNotExist(err)
	})
	if err := p.stop(40 * time.Second); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(filepath.Join(p.dir, "seal.key")); err != nil || bytes.Equal(before, after) {
		t.Errorf("the key is the old one (error %v)", err)
	}
	p.start()
	p.ready()
	if got := send("3", secrets["a source's secret"]); got != http.StatusAccepted {
		t.Errorf("with the new key alone the webhook is answered %d, want 202", got)
	}
	if status, out := p.api("GET", "/api/v1/whoami", ""); status != http.StatusOK {
		t.Errorf("with the new key alone the admin key is answered %d %s", status, out)
	}
}

// grep looks for secrets in every file but those that are there to keep them.
func grep(t *testing.T, dir string, secrets map[string]string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "admin.key" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		for what, secret := range secrets {
			if bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s is in %s", what, path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 10 {
		t.Errorf("looked into %d files only", files)
	}
}
