package interceptor_test

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/posthornhq/posthorn/pkg/interceptor"
)

var proxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:1::/48")}

func TestClientAddr(t *testing.T) {
	t.Parallel()
	xff := func(v ...string) http.Header { return http.Header{"X-Forwarded-For": v} }
	fwd := func(v ...string) http.Header { return http.Header{"Forwarded": v} }
	tests := []struct {
		name, peer string
		header     http.Header
		want       string // empty: an error
	}{
		{"no proxy", "192.0.2.1:80", nil, "192.0.2.1"},
		{"without a port", "192.0.2.1", nil, "192.0.2.1"},
		{"IPv6", "[2001:db8::7]:80", nil, "2001:db8::7"},
		{"IPv6 without a port", "2001:db8::7", nil, "2001:db8::7"},
		{"IPv4 as IPv6", "[::ffff:192.0.2.1]:80", nil, "192.0.2.1"},
		{"with a zone", "[fe80::1%eth0]:80", nil, "fe80::1"},
		{"no address", "@", nil, ""},

		{"a header of nobody's proxy", "192.0.2.1:80", xff("198.51.100.7"), "192.0.2.1"},
		{"a proxy's", "10.0.0.1:80", xff("198.51.100.7"), "198.51.100.7"},
		{"a proxy's, which the client wrote before", "10.0.0.1:80", xff("127.0.0.1, 198.51.100.7"), "198.51.100.7"},
		{"two proxies", "10.0.0.1:80", xff("6.6.6.6, 198.51.100.7, 10.0.0.2"), "198.51.100.7"},
		{"in several lines", "10.0.0.1:80", xff("6.6.6.6", "198.51.100.7", "10.0.0.2"), "198.51.100.7"},
		{"proxies all the way", "10.0.0.1:80", xff("10.0.0.3, 10.0.0.2"), "10.0.0.3"},
		{"an IPv4 proxy as IPv6", "[::ffff:10.0.0.1]:80", xff("198.51.100.7"), "198.51.100.7"},
		{"a port in the hop", "10.0.0.1:80", xff("198.51.100.7:1234"), "198.51.100.7"},
		{"an IPv6 hop", "10.0.0.1:80", xff("[2001:db8::7]:1234"), "2001:db8::7"},
		{"garbage of a trusted proxy", "10.0.0.1:80", xff("198.51.100.7, unknown"), ""},
		{"garbage behind a stranger is the stranger's", "10.0.0.1:80", xff("<script>, 198.51.100.7"), "198.51.100.7"},
		{"an empty header", "10.0.0.1:80", xff(""), ""},

		{"Forwarded", "10.0.0.1:80", fwd("for=198.51.100.7"), "198.51.100.7"},
		{"Forwarded with more", "10.0.0.1:80", fwd(`for=6.6.6.6, proto=https;FOR="198.51.100.7:99";by=10.0.0.1`), "198.51.100.7"},
		{"Forwarded with IPv6", "10.0.0.1:80", fwd(`for="[2001:db8::7]:99"`), "2001:db8::7"},
		{"Forwarded over two proxies", "10.0.0.1:80", fwd(`for=6.6.6.6, for=198.51.100.7`, `for="[2001:db8:1::2]"`), "198.51.100.7"},
		{"a comma in quotes", "10.0.0.1:80", fwd(`for=198.51.100.7;host="a,for=6.6.6.6"`), "198.51.100.7"},
		{"a quote in quotes", "10.0.0.1:80", fwd(`for=198.51.100.7;host="a\",for=6.6.6.6"`), "198.51.100.7"},
		{"a quote that the client left open", "10.0.0.1:80", fwd(`for=6.6.6.6;x=", for=198.51.100.7`), ""},
		{"a quote that the proxy's closes", "10.0.0.1:80", fwd(`for=6.6.6.6;x=", for="[2001:db8::7]"`), ""},
		{"a quote that is open in a stranger's line", "10.0.0.1:80", fwd(`for=6.6.6.6;x="`, `for=198.51.100.7`), "198.51.100.7"},
		{"a hop that hides", "10.0.0.1:80", fwd("for=_hidden"), ""},
		{"a hop that does not know", "10.0.0.1:80", fwd("for=unknown"), ""},
		{"a hop that does not say", "10.0.0.1:80", fwd("proto=https"), ""},

		{"both headers agree", "10.0.0.1:80", http.Header{"X-Forwarded-For": {"198.51.100.7"}, "Forwarded": {"for=198.51.100.7"}}, "198.51.100.7"},
		{"one of both may be the client's", "10.0.0.1:80", http.Header{"X-Forwarded-For": {"6.6.6.6"}, "Forwarded": {"for=198.51.100.7"}}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := interceptor.ClientAddr(tt.peer, tt.header, proxies)
			if tt.want == "" {
				if err == nil {
					t.Errorf("the client is %s, want an error", got)
				}
				return
			}
			if err != nil || got.String() != tt.want {
				t.Errorf("the client is %s with error %v, want %s", got, err, tt.want)
			}
		})
	}
}

// Whatever a client writes to the left of what its proxy adds, it is who it is.
func FuzzClientAddr(f *testing.F) {
	for _, s := range []string{`for=6.6.6.6;x="`, `for=6.6.6.6;by="\`, "", "127.0.0.1", "10.0.0.9", "for=1.2.3.4", `"`, `for="[::1`, "a;b,c=\"\\", strings.Repeat(",", 50)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		// In a line that the proxy goes on with, it may be unknown who it is.
		for _, hop := range []string{"for=198.51.100.7", `for="198.51.100.7:80";by="10.0.0.1"`} {
			got, err := interceptor.ClientAddr("10.0.0.1:1", http.Header{"Forwarded": {s + ", " + hop}}, proxies)
			if err == nil && got.String() != "198.51.100.7" {
				t.Errorf("after %q in one line of Forwarded the client is %s, want 198.51.100.7 or an error", s, got)
			}
		}
		for name, h := range map[string]http.Header{
			"X-Forwarded-For": {"X-Forwarded-For": {s, "198.51.100.7"}},
			"Forwarded":       {"Forwarded": {s, "for=198.51.100.7"}},
		} {
			got, err := interceptor.ClientAddr("10.0.0.1:1", h, proxies)
			if err != nil || got.String() != "198.51.100.7" {
				t.Errorf("after %q in %s the client is %s with error %v, want 198.51.100.7", s, name, got, err)
			}
		}
	})
}
