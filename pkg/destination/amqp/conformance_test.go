package amqp

import (
	"bytes"
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/pkg/amqp/rabbittest"
	"github.com/posthornhq/posthorn/pkg/certs/certstest"
	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/destination/destinationtest"
	"github.com/posthornhq/posthorn/pkg/netguard"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

const (
	hushPassword = "hush-password-1"
	hushHeader   = "hush-header-2"
)

type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// between returns the address of a listener in front of a broker. What comes from the
// broker waits for delay; a publish and all after it are swallowed, or with cut end the
// connection, unless pass is set.
func between(t *testing.T, broker string, delay time.Duration, pass, cut bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	relay := func(to, from net.Conn, each func([]byte) bool) {
		defer to.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			if n > 0 && each(buf[:n]) {
				if _, err := to.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	go func() {
		for {
			front, err := l.Accept()
			if err != nil {
				return
			}
			back, err := net.Dial("tcp", broker)
			if err != nil {
				front.Close()
				continue
			}
			silent := false
			go relay(back, front, func(b []byte) bool {
				// Class basic, method publish.
				if !pass && bytes.Contains(b, []byte{0, 60, 0, 40}) {
					silent = true
					if cut {
						front.Close()
					}
				}
				return !silent
			})
			go relay(front, back, func([]byte) bool {
				<-time.After(delay)
				return true
			})
		}
	}()
	return l.Addr().String()
}

func TestAMQPConforms(t *testing.T) {
	t.Parallel()
	s := rabbittest.Shared(t)
	s.Queue("conforms", "conforms", "#")
	ann := "ann-" + rand.Text() // the server is shared
	s.Control("add_user", ann, hushPassword)
	s.Control("set_permissions", ann, ".*", ".*", ".*")
	log := &logs{}
	pool := func(t *testing.T, allow ...netip.Prefix) *Pool {
		p := NewPool(netguard.New(allow), slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})), Config{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run returned %v, want nil", err)
			}
		})
		return p
	}
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	at := func(change func(*posthornv1.Amqp)) destinationtest.Make {
		return func(t *testing.T) destination.Destination {
			sub := spec(s, "conforms")
			sub.Username, sub.Password = ann, proto.String(hushPassword)
			sub.Headers = map[string]string{"X-Key": hushHeader}
			change(sub)
			return open(t, pool(t, loopback), sub)
		}
	}
	through := func(delay time.Duration, pass, cut bool) destinationtest.Make {
		return func(t *testing.T) destination.Destination {
			front := between(t, s.Addr(), delay, pass, cut)
			return at(func(a *posthornv1.Amqp) { a.Url = "amqp://" + front })(t)
		}
	}
	url := func(u string) destinationtest.Make { return at(func(a *posthornv1.Amqp) { a.Url = u }) }
	destinationtest.Run(t, destinationtest.Suite{
		Secrets: []string{hushPassword, "hush-wrong", hushHeader},
		Log:     log.String,
		Accepts: at(func(*posthornv1.Amqp) {}),
		Unauthorized: at(func(a *posthornv1.Amqp) {
			a.Password = proto.String("hush-wrong")
		}),
		Unavailable: at(func(a *posthornv1.Amqp) { a.Exchange = "amq.fanout" }), // to no queue
		Slow:        through(20*time.Millisecond, true, false),
		Silent:      through(0, false, false),
		Cut:         through(0, false, true),
		Nobody:      url("amqp://127.0.0.1:1"),
		NoName:      url("amqp://no-such-host..invalid"),
		Untrusted: func(t *testing.T) destination.Destination {
			front := tlsFront(t, certstest.New(t), s.Addr())
			return url("amqps://" + front)(t)
		},
		Blocked: func(t *testing.T) destination.Destination {
			sub := spec(s, "conforms")
			sub.Username, sub.Password = ann, proto.String(hushPassword)
			sub.Headers = map[string]string{"X-Key": hushHeader}
			return open(t, pool(t), sub)
		},
		Lacks: map[string]string{
			"Refuses": "what a broker returns or does not take it may take when somebody has bound a queue",
			"Huge":    "a confirmation has its size",
		},
	})
	if strings.Contains(log.String(), "hush") {
		t.Error("the log shows a credential")
	}
}
