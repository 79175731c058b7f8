package netguard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
)

// ErrBlocked is in the chain of every error about an address that is not allowed.
var ErrBlocked = errors.New("address is not allowed")

// dialTimeout bounds a dial whose context does not: [net/http.Transport] goes on
// dialling when the request that asked for it has given up. It is the longest
// timeout that a policy may give an attempt.
const dialTimeout = 30 * time.Second

// platformAddresses are public addresses at which a cloud talks to its machines;
// the others' are link-local, private or in an IANA special range.
var platformAddresses = []netip.Prefix{
	netip.MustParsePrefix("168.63.129.16/32"), // Azure's WireServer
}

// A Guard dials TCP to addresses that are public or explicitly allowed. It is
// safe for concurrent use.
//
// Refused by default are the ranges of IANA's special-purpose registries for
// IPv4 and IPv6 (private, loopback, link-local with the metadata services,
// unspecified, shared, benchmarking, documentation, 6to4), multicast, and
// everything outside of 2000::/3, which takes in IPv4-mapped and NAT64 addresses.
type Guard struct {
	rules  *ssrf.Guardian
	dialer net.Dialer
}

// New returns a Guard that allows the public internet and the prefixes in allow,
// each for addresses of its own family. 0.0.0.0/0 and ::/0 allow everything.
func New(allow []netip.Prefix) *Guard {
	var v4, v6 []netip.Prefix
	for _, p := range allow {
		p = p.Masked()
		if p.Addr().Is4() {
			v4 = append(v4, p)
		} else {
			v6 = append(v6, p)
		}
	}
	g := &Guard{rules: ssrf.New(
		ssrf.WithAnyPort(),
		ssrf.WithAllowedV4Prefixes(v4...),
		ssrf.WithAllowedV6Prefixes(v6...),
		ssrf.WithDeniedV4Prefixes(platformAddresses...),
	)}
	g.dialer = net.Dialer{Timeout: dialTimeout, Control: g.control}
	return g
}

// DialContext connects to address ("host:port") by TCP, as
// [net.Dialer.DialContext] does. If an address of the host is refused and no
// other can be connected to, the error wraps [ErrBlocked].
func (g *Guard) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return g.dialer.DialContext(ctx, network, address)
}

// control is called between socket(2) and connect(2), with an address that
// nothing resolves any further.
func (g *Guard) control(network, address string, _ syscall.RawConn) error {
	if network != "tcp4" && network != "tcp6" {
		return fmt.Errorf("netguard: network %s: %w: only TCP is", network, ErrBlocked)
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("netguard: %w: %q is not an address and port", ErrBlocked, address)
	}
	// A zone names an interface of this machine and is no part of a prefix.
	addr := ap.Addr().WithZone("")
	if err := g.rules.SafeAddr(addr); err != nil {
		return &blockedError{addr: addr}
	}
	return nil
}

// A blockedError says which address was refused and what an operator can do.
type blockedError struct{ addr netip.Addr }

func (e *blockedError) Error() string {
	return fmt.Sprintf("netguard: %s is not a public address; the operator can allow it with --allow-net %s/%d",
		e.addr, e.addr, e.addr.BitLen())
}

// Is makes the error one of [ErrBlocked], whose text it does not repeat.
func (e *blockedError) Is(target error) bool { return target == ErrBlocked }
