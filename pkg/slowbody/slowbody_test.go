package slowbody_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/posthornhq/posthorn/pkg/slowbody"
)

// pipes is a listener whose connections are in memory, so that time is synctest's.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { p.once.Do(func() { close(p.done) }); return nil }

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// dial serves h behind [slowbody.Handler] and returns a connection to it.
func dial(t *testing.T, h http.HandlerFunc) net.Conn {
	t.Helper()
	l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	srv := &http.Server{Handler: slowbody.Handler(h), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	client, server := net.Pipe()
	l.conns <- server
	t.Cleanup(func() {
		_ = client.Close() // the server may have done so
		if err := srv.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		wg.Wait()
	})
	return client
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

const slow = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{"

// read is a handler that reads the body and answers 408 if it was late.
func read(w http.ResponseWriter, r *http.Request) {
	if _, err := io.ReadAll(r.Body); slowbody.TooSlow(err) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusRequestTimeout)
	}
}

// refuse is a handler that does not look at the body.
func refuse(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }

func TestABodyThatIsLateEndsItsConnection(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		head   string
		handle http.HandlerFunc
		drip   bool
		status int
	}{
		{"silence", slow, read, false, 408},
		{"a byte a second", slow, read, true, 408},
		{"silence in a chunk", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n{", read, false, 408},
		{"silence that nobody reads", slow, refuse, false, 401},
		{"a byte a second that nobody reads", slow, refuse, true, 401},
		{"silence after which the connection is to be closed", strings.Replace(slow, "Host", "Connection: close\r\nHost", 1), refuse, false, 401},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				c := dial(t, tt.handle)
				send(t, c, tt.head)
				if tt.drip {
					var wg sync.WaitGroup
					defer wg.Wait()
					wg.Go(func() {
						for err := error(nil); err == nil; _, err = c.Write([]byte(" ")) {
							<-time.After(time.Second) // on the fake clock of synctest
						}
					})
				}
				in := bufio.NewReader(c)
				resp, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Fatal(err)
				}
				if resp.StatusCode != tt.status {
					t.Errorf("answered %d, want %d", resp.StatusCode, tt.status)
				}
				if _, err := io.Copy(io.Discard, in); err != nil {
					t.Errorf("the connection ended with error %v, want its end", err)
				}
				if took := time.Since(begun); took > slowbody.Wait+2*time.Second {
					t.Errorf("the connection was open for %s, want about %s", took, slowbody.Wait)
				}
			})
		})
	}
}

// A long poll waits for as long as it likes, and the next request of the connection
// has a time of its own.
func TestARequestWhoseBodyHasComeMayTakeItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := dial(t, func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(r.Body); err != nil {
				t.Errorf("the body: %v", err)
			}
			select {
			case <-time.After(3 * slowbody.Wait):
			case <-r.Context().Done():
				t.Error("the request was ended while it waited")
			}
			_, _ = fmt.Fprint(w, "ok")
		})
		in := bufio.NewReader(c)
		for _, request := range []string{
			"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
			"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		} {
			send(t, c, request)
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("answered %d, error %v; want 200", resp.StatusCode, err)
			}
			<-time.After(3 * slowbody.Wait) // on the fake clock of synctest
		}
	})
}

func TestALargeBodyHasTheTimeThatItsRateAllows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const seconds = 60
		c := dial(t, read)
		send(t, c, fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", seconds*slowbody.Rate))
		go func() {
			for range seconds {
				<-time.After(time.Second) // on the fake clock of synctest
				if _, err := c.Write(make([]byte, slowbody.Rate)); err != nil {
					t.Errorf("send: %v", err)
					return
				}
			}
		}()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusOK {
			t.Errorf("answered %d, want 200", resp.StatusCode)
		}
	})
}
