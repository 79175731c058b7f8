package netguard

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func prefixes(t *testing.T, list ...string) []netip.Prefix {
	t.Helper()
	var out []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		address string
		allow   []string
		blocked bool
	}{
		{"public IPv4", "8.8.8.8:443", nil, false},
		{"public IPv6", "[2606:4700:4700::1111]:443", nil, false},
		{"any port", "8.8.8.8:12345", nil, false},
		{"loopback", "127.0.0.1:80", nil, true},
		{"loopback, not the first", "127.9.9.9:80", nil, true},
		{"loopback IPv6", "[::1]:80", nil, true},
		{"unspecified", "0.0.0.0:80", nil, true},
		{"unspecified IPv6", "[::]:80", nil, true},
		{"private, ten", "10.1.2.3:80", nil, true},
		{"private, 172.16", "172.16.0.1:80", nil, true},
		{"just below 172.16", "172.15.255.255:80", nil, false},
		{"private, 192.168", "192.168.0.1:80", nil, true},
		{"carrier-grade NAT", "100.64.0.1:80", nil, true},
		{"link-local", "169.254.1.1:80", nil, true},
		{"metadata of AWS, Azure and Google", "169.254.169.254:80", nil, true},
		{"metadata of AWS over IPv6", "[fd00:ec2::254]:80", nil, true},
		{"metadata of Alibaba", "100.100.100.200:80", nil, true},
		{"metadata of Oracle", "192.0.0.192:80", nil, true},
		{"WireServer of Azure", "168.63.129.16:80", nil, true},
		{"beside the WireServer", "168.63.129.17:80", nil, false},
		{"multicast", "224.0.0.1:80", nil, true},
		{"broadcast", "255.255.255.255:80", nil, true},
		{"unique local IPv6", "[fc00::1]:80", nil, true},
		{"link-local IPv6", "[fe80::1]:80", nil, true},
		{"link-local IPv6 with a zone", "[fe80::1%lo]:80", nil, true},
		{"mapped private", "[::ffff:10.0.0.1]:80", nil, true},
		{"mapped loopback", "[::ffff:127.0.0.1]:80", nil, true},
		{"mapped metadata", "[::ffff:169.254.169.254]:80", nil, true},
		{"mapped loopback while IPv4 loopback is allowed", "[::ffff:127.0.0.1]:80", []string{"127.0.0.0/8"}, true},
		{"NAT64 of loopback", "[64:ff9b::7f00:1]:80", nil, true},
		{"NAT64 of a local prefix", "[64:ff9b:1::a00:1]:80", nil, true},
		{"6to4 of a private address", "[2002:a00:1::]:80", nil, true},
		{"Teredo", "[2001:0:1::1]:80", nil, true},
		{"no port", "8.8.8.8", nil, true},
		{"a name", "localhost:80", nil, true},

		{"allowed range", "10.1.2.3:80", []string{"10.0.0.0/8"}, false},
		{"allowed range written with host bits", "10.1.2.3:80", []string{"10.9.9.9/8"}, false},
		{"beside the allowed range", "11.0.0.1:80", []string{"10.0.0.0/8"}, false},
		{"another private range than the allowed one", "192.168.0.1:80", []string{"10.0.0.0/8"}, true},
		{"one of several", "127.0.0.1:80", []string{"::1/128", "127.0.0.0/8"}, false},
		{"allowed IPv6", "[::1]:80", []string{"::1/128", "127.0.0.0/8"}, false},
		{"IPv4 loopback does not allow IPv6 loopback", "[::1]:80", []string{"127.0.0.0/8"}, true},
		{"allowed link-local with a zone", "[fe80::1%lo]:80", []string{"fe80::/10"}, false},
		{"allowed platform address", "168.63.129.16:80", []string{"168.63.129.16/32"}, false},
		{"everything of IPv4", "169.254.169.254:80", []string{"0.0.0.0/0"}, false},
		{"everything of IPv4 is nothing of IPv6", "[::1]:80", []string{"0.0.0.0/0"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			network := "tcp4"
			if strings.HasPrefix(tt.address, "[") {
				network = "tcp6"
			}
			err := New(prefixes(t, tt.allow...)).control(network, tt.address, nil)
			if got := err != nil; got != tt.blocked {
				t.Fatalf("control(%s) = %v, want blocked: %t", tt.address, err, tt.blocked)
			}
			if tt.blocked && !errors.Is(err, ErrBlocked) {
				t.Errorf("control(%s) = %v, which is not ErrBlocked", tt.address, err)
			}
		})
	}
}

func TestOnlyTCPIsDialled(t *testing.T) {
	t.Parallel()
	if err := New(nil).control("udp4", "8.8.8.8:53", nil); !errors.Is(err, ErrBlocked) {
		t.Errorf("control(udp4) = %v, want ErrBlocked", err)
	}
}

// The check must see what the resolver answered, not what the URL says.
func TestDialIsCheckedAfterResolving(t *testing.T) {
	t.Parallel()
	lis, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	_, port, err := net.SplitHostPort(lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}

	for _, host := range []string{"localhost", "127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0"} {
		t.Run(host, func(t *testing.T) {
			conn, err := New(nil).DialContext(t.Context(), "tcp", net.JoinHostPort(host, port))
			if err == nil {
				conn.Close()
				t.Fatalf("dialled %s, want it blocked", host)
			}
			if !errors.Is(err, ErrBlocked) {
				t.Errorf("dialling %s: %v, which is not ErrBlocked", host, err)
			}
		})
	}

	conn, err := New(prefixes(t, "127.0.0.0/8", "::1/128")).DialContext(t.Context(), "tcp", net.JoinHostPort("localhost", port))
	if err != nil {
		t.Fatalf("dialling an allowed address: %v", err)
	}
	conn.Close()
}

func TestErrorSaysHowToAllow(t *testing.T) {
	t.Parallel()
	_, err := New(nil).DialContext(t.Context(), "tcp", "10.1.2.3:80")
	if err == nil || !strings.Contains(err.Error(), "10.1.2.3 is not a public address") || !strings.Contains(err.Error(), "--allow-net 10.1.2.3/32") {
		t.Errorf("error is %v, want the address and how to allow it", err)
	}
	_, err = New(nil).DialContext(t.Context(), "tcp", "[fe80::1%lo]:80")
	if err == nil || !strings.Contains(err.Error(), "--allow-net fe80::1/128") {
		t.Errorf("error is %v, want a prefix that the flag takes", err)
	}
}

// A name that is public when somebody looks and private when it is dialled.
func TestANameThatChangesIsCheckedWhereItLeads(t *testing.T) {
	t.Parallel()
	lis, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	_, port, err := net.SplitHostPort(lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	server := serveDNS(t, func() netip.Addr {
		if asked.Add(1) == 1 {
			return netip.MustParseAddr("8.8.8.8")
		}
		return netip.MustParseAddr("127.0.0.1")
	})
	g := New(nil)
	g.dialer.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", server)
	}}
	first, err := g.dialer.Resolver.LookupNetIP(t.Context(), "ip4", "rebind.example")
	if err != nil || first[0].String() != "8.8.8.8" {
		t.Fatalf("the first look-up gave %v, error %v", first, err)
	}
	conn, err := g.DialContext(t.Context(), "tcp4", net.JoinHostPort("rebind.example", port))
	if err == nil {
		conn.Close()
		t.Fatal("dialled loopback by a name, want it blocked")
	}
	if !errors.Is(err, ErrBlocked) {
		t.Errorf("got error %v, which is not ErrBlocked", err)
	}
}

// serveDNS answers every question for an IPv4 address with what answer says.
func serveDNS(t *testing.T, answer func() netip.Addr) string {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			m.Response, m.Authoritative, m.Additionals = true, true, nil
			if q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}, // no time to live
					Body:   &dnsmessage.AResource{A: answer().As4()},
				}}
			}
			out, err := m.Pack()
			if err == nil {
				_, err = pc.WriteTo(out, from)
			}
			if err != nil {
				return
			}
		}
	}()
	return pc.LocalAddr().String()
}

// Spellings that some resolvers read as loopback. Whether this machine's does or
// not, none of them leads there.
func TestOddSpellingsLeadNowhere(t *testing.T) {
	t.Parallel()
	lis, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	_, port, err := net.SplitHostPort(lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{
		"2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "127.0.1", "127.0.0.1.", "localhost.",
		"[::ffff:7f00:1]", "0:0:0:0:0:ffff:127.0.0.1", "①②⑦.⓪.⓪.①",
	} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if conn, err := New(nil).DialContext(ctx, "tcp", net.JoinHostPort(strings.Trim(host, "[]"), port)); err == nil {
				conn.Close()
				t.Errorf("%s was dialled", host)
			}
		})
	}
}
