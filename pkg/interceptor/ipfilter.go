package interceptor

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"strings"

	"github.com/gaissmai/bart"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// An ipFilter lets the addresses of its list pass, or all others. The time that
// it takes does not depend on how many they are.
type ipFilter struct {
	allow bool
	list  bart.Lite
}

func newIPFilter(spec *posthornv1.Interceptor_IpFilter) (*ipFilter, error) {
	f := &ipFilter{allow: spec.GetMode() == posthornv1.Interceptor_IpFilter_ALLOW}
	for a := range addresses(spec) {
		if a.err != nil {
			return nil, fmt.Errorf("address %d: %w", a.index, a.err)
		}
		f.list.Insert(a.prefix)
	}
	return f, nil
}

func (f *ipFilter) check(_ context.Context, r *Request) (string, *refusal) {
	client := canonical(r.Client)
	if !client.IsValid() {
		return "", denied("the client's address is not known")
	}
	listed := f.list.Contains(client)
	switch {
	case listed && f.allow:
		return "address is on the allow list", nil
	case listed:
		return "", denied("%s is on the block list", client)
	case f.allow:
		return "", denied("%s is not on the allow list", client)
	}
	return "address is not on the block list", nil
}

// An address is one entry of a list, with the index of the string that it is in.
type address struct {
	index  int
	prefix netip.Prefix
	err    error
}

// addresses yields the entries of all strings, each of which may hold several
// separated by commas (S7). Empty ones are passed over.
func addresses(spec *posthornv1.Interceptor_IpFilter) iter.Seq[address] {
	return func(yield func(address) bool) {
		for i, text := range spec.GetAddresses() {
			for entry := range strings.SplitSeq(text, ",") {
				if entry = strings.TrimSpace(entry); entry == "" {
					continue
				}
				p, err := parsePrefix(entry)
				if !yield(address{index: i, prefix: p, err: err}) {
					return
				}
			}
		}
	}
}

// parsePrefix reads an address or a CIDR prefix. IPv4 written as IPv6 becomes
// IPv4, since that is how clients' addresses are compared. Bits after the prefix
// are ignored: 10.1.2.3/8 is 10.0.0.0/8.
func parsePrefix(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q is neither an IP address nor a CIDR prefix", s)
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is neither an IP address nor a CIDR prefix", s)
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, errors.New("an IPv4 address written as IPv6 needs a prefix of at least 96 bits; write it as IPv4")
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// canonical returns an address in the only form that is compared.
func canonical(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
