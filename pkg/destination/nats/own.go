package nats

import (
	"net/url"
	"slices"
	"strings"

	gonats "github.com/nats-io/nats.go"
)

// own reports whether a subject at the other end of nc is one that the platform itself
// listens to. That is not known while the platform is not connected: its server may have
// started again since, under another ID.
func (c *Client) own(nc *gonats.Conn, subject string) (own, known bool) {
	first, _, _ := strings.Cut(subject, ".")
	if c.cfg.Platform == nil || !slices.Contains(c.cfg.OwnSubjects, first) {
		return false, true
	}
	id := c.cfg.Platform.ConnectedServerId()
	return nc.ConnectedServerId() == id || sameCluster(nc, c.cfg.Platform), id != ""
}

// sameCluster reports whether two connections are to servers of one cluster. Clusters
// that have nothing to do with each other may share a name, but then they do not tell
// of the same servers; where neither tells of any they are taken for one.
func sameCluster(a, b *gonats.Conn) bool {
	name := a.ConnectedClusterName()
	if name == "" || name != b.ConnectedClusterName() {
		return false
	}
	if len(a.DiscoveredServers()) == 0 && len(b.DiscoveredServers()) == 0 {
		return true
	}
	there := hosts(b)
	return slices.ContainsFunc(hosts(a), func(host string) bool { return slices.Contains(there, host) })
}

// hosts returns the addresses of the servers that a connection knows.
func hosts(nc *gonats.Conn) []string {
	servers := nc.Servers()
	out := make([]string, 0, len(servers))
	for _, s := range servers {
		if u, err := url.Parse(s); err == nil {
			out = append(out, u.Host)
		}
	}
	return out
}
