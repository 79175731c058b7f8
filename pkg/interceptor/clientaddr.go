package interceptor

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// ClientAddr returns the address of who sent a request that came from the peer at
// remoteAddr (with or without a port). X-Forwarded-For and Forwarded (RFC 7239)
// count only as far as trusted proxies wrote them: hops are taken from the right,
// for as long as the one that added them is trusted (S7).
//
// It is an error if a trusted proxy names no address, or if the two headers
// lead to different ones: a proxy writes one of them, so the other may be the
// client's own.
func ClientAddr(remoteAddr string, h http.Header, trusted []netip.Prefix) (netip.Addr, error) {
	peer, err := parseHop(remoteAddr)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("interceptor: address of the peer: %w", err)
	}
	if !trusts(trusted, peer) {
		return peer, nil
	}
	xff, forwarded := h["X-Forwarded-For"], h["Forwarded"]
	switch {
	case len(xff) == 0 && len(forwarded) == 0:
		return peer, nil
	case len(forwarded) == 0:
		return walk(peer, splitList(xff), trusted)
	case len(xff) == 0:
		return walk(peer, forwardedFor(forwarded), trusted)
	}
	a, errA := walk(peer, splitList(xff), trusted)
	b, errB := walk(peer, forwardedFor(forwarded), trusted)
	if err := errors.Join(errA, errB); err != nil {
		return netip.Addr{}, err
	}
	if a != b {
		return netip.Addr{}, errors.New("interceptor: X-Forwarded-For and Forwarded lead to different clients; have the proxy remove the one that it does not write")
	}
	return a, nil
}

func walk(client netip.Addr, hops []string, trusted []netip.Prefix) (netip.Addr, error) {
	for i := len(hops) - 1; i >= 0 && trusts(trusted, client); i-- {
		next, err := parseHop(hops[i])
		if err != nil {
			return netip.Addr{}, fmt.Errorf("interceptor: a trusted proxy forwards for no address: %w", err)
		}
		client = next
	}
	return client, nil
}

func trusts(trusted []netip.Prefix, a netip.Addr) bool {
	for _, p := range trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// splitList returns the elements of a header that may come in several lines.
func splitList(lines []string) []string {
	var all []string
	for _, line := range lines {
		for e := range strings.SplitSeq(line, ",") {
			all = append(all, strings.TrimSpace(e))
		}
	}
	return all
}

// forwardedFor returns the parameter "for" of each element of Forwarded, empty
// where it has none: that hop hides who it forwards for.
func forwardedFor(lines []string) []string {
	var all []string
	for _, line := range lines {
		elements, closed := splitQuoted(line, ',')
		if !closed {
			// Who left a quote open has taken what the proxy wrote behind it into a
			// value of their own: nothing of such a line can be believed.
			elements = []string{""}
		}
		for _, element := range elements {
			hop := ""
			pairs, _ := splitQuoted(element, ';') // closed, as the line is
			for _, pair := range pairs {
				name, value, _ := strings.Cut(pair, "=")
				if strings.EqualFold(strings.TrimSpace(name), "for") {
					hop = unquote(strings.TrimSpace(value))
				}
			}
			all = append(all, hop)
		}
	}
	return all
}

// splitQuoted splits at a separator that is not inside of a quoted string, and
// says whether the last of these is closed.
func splitQuoted(s string, sep byte) (parts []string, closed bool) {
	quoted, from := false, 0
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == sep && !quoted:
			parts = append(parts, s[from:i])
			from = i + 1
		}
	}
	return append(parts, s[from:]), !quoted
}

// unquote reads a token or a quoted string (RFC 9110, 5.6.4).
func unquote(s string) string {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return s
	}
	var b strings.Builder
	for i := 1; i < len(s)-1; i++ {
		if s[i] == '\\' && i+1 < len(s)-1 {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// parseHop reads an address with or without a port: 192.0.2.1, 192.0.2.1:80,
// 2001:db8::1, [2001:db8::1], [2001:db8::1]:80.
func parseHop(s string) (netip.Addr, error) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return canonical(ap.Addr()), nil
	}
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		s = s[1 : len(s)-1]
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%.64q is not an address", s)
	}
	return canonical(a), nil
}
