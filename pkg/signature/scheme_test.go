package signature

import (
	"strings"
	"testing"
)

const slackBody = `token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c`

func secrets(list ...string) [][]byte {
	out := make([][]byte, len(list))
	for i, s := range list {
		out[i] = []byte(s)
	}
	return out
}

// The schemes of providers that have no kind of source yet are here too: they
// show that a Scheme is all that such a kind needs.
func TestProvidersVectors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		scheme Scheme
		secret string
		parts  []string
		want   string
	}{
		{"GitHub", GitHub, "It's a Secret to Everybody", []string{"Hello, World!"},
			"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
		{"Stripe", Scheme{}, "whsec_test_secret", []string{"1614556800", ".", `{"id":"evt_test"}`},
			"8d7e36959f35255aff1c2cc6a906fedf5d8f34dc74004f274f68dbde50ff6d16"},
		{"Slack", Scheme{Prefix: "v0="}, "8f742231b10e8888abcd99yyyzzz85a5", []string{"v0:1531420618:", slackBody},
			"v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"},
		{"Shopify", Scheme{Encoding: Base64}, "hush", []string{`{"id":1}`},
			"VnKUjZsLuN5iZWjn5EntcBVCF9kMN43LglzCE1/GSeY="},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			parts := secrets(tt.parts...)
			if got := tt.scheme.Sign([]byte(tt.secret), parts...); got != tt.want {
				t.Errorf("signature is %s, want %s", got, tt.want)
			}
			if !tt.scheme.Verify(secrets(tt.secret), tt.want, parts...) {
				t.Errorf("signature %s does not verify", tt.want)
			}
		})
	}
}

func TestSchemeMatch(t *testing.T) {
	t.Parallel()
	body := []byte(`{"id":1}`)
	sha512b64 := Scheme{Algorithm: SHA512, Encoding: Base64, Prefix: "v1:"}
	sha512hex := Scheme{Algorithm: SHA512}
	good := GitHub.Sign([]byte("one"), body)

	tests := []struct {
		name    string
		scheme  Scheme
		secrets [][]byte
		sig     string
		body    string
		want    int
	}{
		{"first secret", GitHub, secrets("one", "two"), good, `{"id":1}`, 0},
		{"second secret, during rotation", GitHub, secrets("zero", "one"), good, `{"id":1}`, 1},
		{"second secret after an empty one", GitHub, secrets("", "one"), good, `{"id":1}`, 1},
		{"hex in upper case", GitHub, secrets("one"), "sha256=" + strings.ToUpper(good[7:]), `{"id":1}`, 0},
		{"sha512 in base64", sha512b64, secrets("one"), sha512b64.Sign([]byte("one"), body), `{"id":1}`, 0},
		{"sha512 in hex", sha512hex, secrets("one"), sha512hex.Sign([]byte("one"), body), `{"id":1}`, 0},
		{"wrong secret", GitHub, secrets("other"), good, `{"id":1}`, -1},
		{"changed byte of the body", GitHub, secrets("one"), good, `{"id":2}`, -1},
		{"changed byte of the signature", GitHub, secrets("one"), good[:len(good)-1] + "!", `{"id":1}`, -1},
		{"cut signature", GitHub, secrets("one"), good[:len(good)-2], `{"id":1}`, -1},
		{"signature with a tail", GitHub, secrets("one"), good + "00", `{"id":1}`, -1},
		{"no prefix", GitHub, secrets("one"), good[7:], `{"id":1}`, -1},
		{"prefix alone", GitHub, secrets("one"), "sha256=", `{"id":1}`, -1},
		{"no signature", GitHub, secrets("one"), "", `{"id":1}`, -1},
		{"sha256 where sha512 is asked", sha512hex, secrets("one"), good[7:], `{"id":1}`, -1},
		{"base64 with line ends inside", Scheme{Encoding: Base64}, secrets("hush"),
			"VnKUjZsLuN5iZWjn5EntcBVCF9kMN43L\r\nglzCE1/GSeY=", `{"id":1}`, -1},
		{"no secrets", GitHub, nil, good, `{"id":1}`, -1},
		{"an empty secret signs nothing", GitHub, secrets(""), GitHub.Sign(nil, body), `{"id":1}`, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := tt.scheme.Match(tt.secrets, tt.sig, []byte(tt.body))
			if got != tt.want {
				t.Errorf("matches secret %d, want %d", got, tt.want)
			}
			if ok := tt.scheme.Verify(tt.secrets, tt.sig, []byte(tt.body)); ok != (tt.want >= 0) {
				t.Errorf("verified %v, want %v", ok, tt.want >= 0)
			}
		})
	}
}

func TestMatchToken(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		secrets [][]byte
		token   string
		want    int
	}{
		{"the secret", secrets("Bearer s3cret"), "Bearer s3cret", 0},
		{"the second secret", secrets("new", "old"), "old", 1},
		{"the same secret twice", secrets("new", "new"), "new", 0},
		{"another case", secrets("Bearer s3cret"), "bearer s3cret", -1},
		{"a beginning of it", secrets("s3cret"), "s3cre", -1},
		{"a blank more", secrets("s3cret"), "s3cret ", -1},
		{"nothing", secrets("s3cret"), "", -1},
		{"nothing where the secret is empty", secrets(""), "", -1},
		{"no secrets", nil, "", -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := MatchToken(tt.secrets, tt.token); got != tt.want {
				t.Errorf("token %q matches secret %d, want %d", tt.token, got, tt.want)
			}
		})
	}
}

func TestCertesVector(t *testing.T) {
	t.Parallel()
	body := []byte(`{"id":1}`)
	const want = "SHA256 5672948d9b0bb8de626568e7e449ed70154217d90c378dcb825cc2135fc649e6"
	if got := string(Certes([]byte("x"), []byte("hush"), body)); got != "x"+want {
		t.Errorf("appended %q, want %q", got, "x"+want)
	}
	if got := Certes(nil, nil, body); len(got) != 0 {
		t.Errorf("an empty secret signed as %q, want nothing", got)
	}

	tests := []struct {
		name    string
		secrets [][]byte
		sig     string
		body    string
		want    bool
	}{
		{"vector", secrets("hush"), want, `{"id":1}`, true},
		{"second secret", secrets("new", "hush"), want, `{"id":1}`, true},
		{"lower-case name", secrets("hush"), "sha256 " + want[7:], `{"id":1}`, true},
		{"wrong secret", secrets("rush"), want, `{"id":1}`, false},
		{"changed byte", secrets("hush"), want, `{"id":2}`, false},
		{"SHA1 by name", secrets("hush"), "SHA1 " + want[7:], `{"id":1}`, false},
		{"SHA1", secrets("hush"), "SHA1 8d62b2d1ea1d9d2b4a3a8f7ea9c8c1d6e9a9b0f1", `{"id":1}`, false},
		{"no name", secrets("hush"), want[7:], `{"id":1}`, false},
		{"nothing", secrets("hush"), "", `{"id":1}`, false},
		{"empty secret", secrets(""), string(Certes(nil, []byte(""), body)), `{"id":1}`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := VerifyCertes(tt.secrets, tt.sig, []byte(tt.body)); got != tt.want {
				t.Errorf("%q verified %v, want %v", tt.sig, got, tt.want)
			}
		})
	}
}

func BenchmarkCertes512B(b *testing.B) {
	secret, body := []byte("hush"), make([]byte, 512)
	buf := make([]byte, 0, 128)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		buf = Certes(buf[:0], secret, body)
	}
}

func BenchmarkVerifyGitHub8KiB(b *testing.B) {
	list, body := secrets("hush"), make([]byte, 8<<10)
	sig := GitHub.Sign(list[0], body)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if !GitHub.Verify(list, sig, body) {
			b.Fatal("signature does not verify")
		}
	}
}
