package interceptor_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/interceptor"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func sign(secret, text string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}

func TestTheFlowRunsInOrderAndTheFirstFailureEndsIt(t *testing.T) {
	t.Parallel()
	f := compile(t, `[
		{"id":"net","ipFilter":{"mode":"ALLOW","addresses":["192.0.2.0/24"]}},
		{"id":"off","disabled":true,"headerValue":{"name":"X-Off"}},
		{"id":"first","headerValue":{"name":"X-First"}},
		{"id":"second","headerValue":{"name":"X-Second"}}]`,
		map[string]string{"first": "one", "second": "two"}, nil)
	steps, err := f.Check(t.Context(), request("", "X-First: one", "X-Second: two"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range steps {
		got = append(got, s.Name+" "+s.Outcome)
	}
	want := "interceptor[0]:ipFilter ok, interceptor[1]:headerValue skipped, interceptor[2]:headerValue ok, interceptor[3]:headerValue ok"
	if text := strings.Join(got, ", "); text != want {
		t.Errorf("steps are %s, want %s", text, want)
	}
	steps, err = f.Check(t.Context(), request("", "X-First: wrong"))
	if len(steps) != 3 || errs.KindOf(err) != errs.Unauthenticated || !strings.Contains(err.Error(), "interceptor headerValue (security.flow[2])") {
		t.Errorf("%d steps and error %v, want three, and one that names the third interceptor", len(steps), err)
	}
	var none *interceptor.Flow
	if steps, err := none.Check(t.Context(), request("")); steps != nil || err != nil {
		t.Errorf("no flow gives %v and error %v, want nothing", steps, err)
	}
}

func TestIPFilter(t *testing.T) {
	t.Parallel()
	allow := `["198.51.100.7, 192.0.2.0/24", "2001:db8::/32", "::ffff:203.0.113.9"]`
	tests := []struct {
		mode, client string
		want         bool
	}{
		{"ALLOW", "192.0.2.200", true},
		{"ALLOW", "198.51.100.7", true},
		{"ALLOW", "198.51.100.8", false},
		{"ALLOW", "2001:db8:ffff::1", true},
		{"ALLOW", "2001:db9::1", false},
		{"ALLOW", "203.0.113.9", true},
		{"ALLOW", "::ffff:192.0.2.1", true},
		{"BLOCK", "192.0.2.200", false},
		{"BLOCK", "198.51.100.8", true},
		{"BLOCK", "::ffff:192.0.2.1", false},
		{"ALLOW", "", false},
		{"BLOCK", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.mode+" "+tt.client, func(t *testing.T) {
			t.Parallel()
			f := compile(t, `[{"ipFilter":{"mode":"`+tt.mode+`","addresses":`+allow+`}}]`, nil, nil)
			r := request("")
			r.Client = netip.Addr{}
			if tt.client != "" {
				r.Client = netip.MustParseAddr(tt.client)
			}
			if tt.want {
				passes(t, f, r)
			} else {
				refused(t, f, r, errs.Denied, "interceptor ipFilter")
			}
		})
	}
}

func TestHMAC(t *testing.T) {
	t.Parallel()
	const body = `{"id":1}`
	now := strconv.FormatInt(epoch.Unix(), 10)
	stale := strconv.FormatInt(epoch.Add(-time.Hour).Unix(), 10)
	plain := `[{"id":"h","hmac":{"header":"X-Sig","prefix":"sha256="}}]`
	timed := `[{"id":"h","hmac":{"header":"X-Sig","timestampHeader":"X-Time","tolerance":"60s"}}]`
	tests := []struct {
		name, flow, secret string
		source             string
		headers            []string
		kind               errs.Kind
		says               string // empty: passes
	}{
		{"good", plain, "hush", "", []string{"X-Sig: sha256=" + sign("hush", body)}, 0, ""},
		{"the second of two live values", plain, "new\nhush", "", []string{"X-Sig: sha256=" + sign("hush", body)}, 0, ""},
		{"the source's secret", plain, "", "hush", []string{"X-Sig: sha256=" + sign("hush", body)}, 0, ""},
		{"its own secret, not the source's", plain, "own", "hush", []string{"X-Sig: sha256=" + sign("hush", body)}, errs.Unauthenticated, "does not match"},
		{"no secret anywhere", plain, "", "", []string{"X-Sig: sha256=" + sign("", body)}, errs.Denied, "has a secret"},
		{"another body", plain, "hush", "", []string{"X-Sig: sha256=" + sign("hush", body+" ")}, errs.Unauthenticated, "does not match"},
		{"no header", plain, "hush", "", nil, errs.Unauthenticated, "no X-Sig header"},
		{"no prefix", plain, "hush", "", []string{"X-Sig: " + sign("hush", body)}, errs.Unauthenticated, "does not match"},
		{"in time", timed, "hush", "", []string{"X-Sig: " + sign("hush", now+"."+body), "X-Time: " + now}, 0, ""},
		{"stale", timed, "hush", "", []string{"X-Sig: " + sign("hush", stale+"."+body), "X-Time: " + stale}, errs.Unauthenticated, "X-Time"},
		{"another time than was signed", timed, "hush", "", []string{"X-Sig: " + sign("hush", stale+"."+body), "X-Time: " + now}, errs.Unauthenticated, "does not match"},
		{"no time", timed, "hush", "", []string{"X-Sig: " + sign("hush", now+"."+body)}, errs.Unauthenticated, "no X-Time header"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := compile(t, tt.flow, map[string]string{"h": tt.secret}, nil)
			r := request("", tt.headers...)
			if tt.source != "" {
				r.Secrets = [][]byte{[]byte(tt.source)}
			}
			if tt.says == "" {
				passes(t, f, r)
			} else {
				refused(t, f, r, tt.kind, tt.says, "hush")
			}
		})
	}
}

func TestHeaderValueAndJSONField(t *testing.T) {
	t.Parallel()
	field := func(path string) string { return `[{"id":"v","jsonField":{"path":"` + path + `"}}]` }
	tests := []struct {
		name, flow, value, body string
		headers                 []string
		kind                    errs.Kind
		says                    string
	}{
		{"a header", `[{"id":"v","headerValue":{"name":"X-Key"}}]`, "hush", "", []string{"X-Key: hush"}, 0, ""},
		{"the new one of two", `[{"id":"v","headerValue":{"name":"X-Key"}}]`, "hush\nnewer", "", []string{"X-Key: newer"}, 0, ""},
		{"another header", `[{"id":"v","headerValue":{"name":"X-Key"}}]`, "hush", "", []string{"X-Key: hush "}, errs.Unauthenticated, "does not match"},
		{"no header", `[{"id":"v","headerValue":{"name":"X-Key"}}]`, "hush", "", nil, errs.Unauthenticated, "no X-Key"},
		{"nothing to compare with", `[{"id":"v","headerValue":{"name":"X-Key"}}]`, "", "", []string{"X-Key: "}, errs.Denied, "no value"},
		{"a pointer", field("/auth/token"), "hush", `{"auth":{"token":"hush"}}`, nil, 0, ""},
		{"names with dots", field("auth.0.token"), "hush", `{"auth":[{"token":"hush"}]}`, nil, 0, ""},
		{"a number", field("pin"), "42", `{"pin":42}`, nil, 0, ""},
		{"the last of two members", field("pin"), "42", `{"pin":42,"pin":43}`, nil, errs.Unauthenticated, "does not match"},
		{"another value", field("pin"), "hush", `{"pin":"other"}`, nil, errs.Unauthenticated, "does not match"},
		{"an object", field("pin"), "hush", `{"pin":{}}`, nil, errs.Unauthenticated, "no string"},
		{"no field", field("pin"), "hush", `{}`, nil, errs.Unauthenticated, "no string"},
		{"no JSON", field("pin"), "hush", `pin=hush`, nil, errs.Unauthenticated, "not JSON"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := compile(t, tt.flow, map[string]string{"v": tt.value}, nil)
			r := request("", tt.headers...)
			r.Body = []byte(tt.body)
			if tt.says == "" {
				passes(t, f, r)
			} else {
				refused(t, f, r, tt.kind, tt.says, "hush")
			}
		})
	}
}

func TestValidateNamesTheField(t *testing.T) {
	t.Parallel()
	many := `"10.0.0.0/8"` + strings.Repeat(`,"10.0.0.1"`, interceptor.MaxAddresses)
	tests := []struct{ name, flow, field string }{
		{"no kind", `[{}]`, "security.flow[0]"},
		{"a location of another kind", `[{"accessToken":{"location":"HEADER_DEFAULT","name":"t"}}]`, "security.flow[0].accessToken.location"},
		{"no name", `[{"jwt":{}},{"clientId":{"location":"COOKIE"}}]`, "security.flow[1].clientId.name"},
		{"no name of a header", `[{"accessToken":{"name":"a b"}}]`, "security.flow[0].accessToken.name"},
		{"a name where there is one already", `[{"jwt":{"name":"t"}}]`, "security.flow[0].jwt.name"},
		{"a JWT in a cookie", `[{"jwt":{"location":"COOKIE","name":"t"}}]`, "security.flow[0].jwt.location"},
		{"no mode", `[{"ipFilter":{"addresses":["10.0.0.1"]}}]`, "security.flow[0].ipFilter.mode"},
		{"no addresses", `[{"ipFilter":{"mode":"BLOCK","addresses":[" , "]}}]`, "security.flow[0].ipFilter.addresses"},
		{"no address", `[{"ipFilter":{"mode":"BLOCK","addresses":["10.0.0.1","10.0.0.1, 10.0.0.256"]}}]`, "security.flow[0].ipFilter.addresses[1]"},
		{"too wide a mapped prefix", `[{"ipFilter":{"mode":"BLOCK","addresses":["::ffff:10.0.0.0/90"]}}]`, "security.flow[0].ipFilter.addresses[0]"},
		{"too many addresses", `[{"ipFilter":{"mode":"BLOCK","addresses":[` + many + `]}}]`, "security.flow[0].ipFilter.addresses"},
		{"a tolerance of nothing", `[{"hmac":{"tolerance":"10s"}}]`, "security.flow[0].hmac.tolerance"},
		{"a header that is none", `[{"hmac":{"header":"a b"}}]`, "security.flow[0].hmac.header"},
		{"a path with a hole", `[{"jsonField":{"path":"a..b"}}]`, "security.flow[0].jsonField.path"},
		{"a disabled one is checked too", `[{"disabled":true,"headerValue":{}}]`, "security.flow[0].headerValue.name"},
		{"an ID that is there twice", `[{"id":"a","oauth":{}},{"id":"a","oauth":{}}]`, "security.flow[1].id"},
		{"an ID that is none", `[{"id":"a b","oauth":{}}]`, "security.flow[0].id"},
		{"too many", `[{"oauth":{}}` + strings.Repeat(`,{"oauth":{}}`, interceptor.MaxInterceptors) + `]`, "security.flow"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			spec := new(posthornv1.Security)
			if err := protojson.Unmarshal([]byte(`{"flow":`+tt.flow+`}`), spec); err != nil {
				t.Fatal(err)
			}
			err := interceptor.Validate(spec)
			if v := errs.ViolationsOf(err); len(v) != 1 || v[0].Field != tt.field {
				t.Errorf("got %v, want a violation of %s", err, tt.field)
			}
		})
	}
}

// A filter of thousands is no slower than one of a few.
func BenchmarkIPFilterOfThousands(b *testing.B) {
	var list []string
	for i := range interceptor.MaxAddresses {
		list = append(list, fmt.Sprintf(`"10.%d.%d.0/24"`, i/256, i%256))
	}
	f := compile(b, `[{"ipFilter":{"mode":"BLOCK","addresses":[`+strings.Join(list, ",")+`]}}]`, nil, nil)
	r := request("")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Check(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}
