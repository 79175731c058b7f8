package slowbody

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"
)

const (
	// Wait is how long the first of a body may take.
	Wait = 10 * time.Second
	// Rate is how many bytes must come a second from then on.
	Rate = 64 << 10
)

// Handler returns h with a deadline on the bodies that it is given: [Wait], and a
// second for each [Rate] bytes that have come.
func Handler(h http.Handler) http.Handler { return within(h, Wait) }

func within(h http.Handler, wait time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body == nil || r.Body == http.NoBody {
			h.ServeHTTP(w, r)
			return
		}
		b := &body{ReadCloser: r.Body, rc: http.NewResponseController(w), wait: time.Now().Add(wait)}
		b.extend()
		// The server looks at its own request when the handler is done, to see what is
		// left of the body. It must find there what it put there.
		own := new(http.Request)
		*own = *r
		own.Body = b
		h.ServeHTTP(w, own)
		// The deadline stays: the server reads on for the next request's sake, and after
		// that sets one of its own.
	})
}

// TooSlow reports whether err says that a body was late.
func TooSlow(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// body is a request's, under a deadline that moves with what has come.
type body struct {
	io.ReadCloser
	rc    *http.ResponseController
	wait  time.Time // when the first must have come
	got   int64
	until time.Time // the deadline that is set
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.got += int64(n)
	switch {
	case errors.Is(err, io.EOF):
		// From here on the server reads only to notice that the client has gone, and would
		// take the deadline for that.
		_ = b.rc.SetReadDeadline(time.Time{})
	case err == nil:
		b.extend()
	}
	return n, err
}

// extend moves the deadline, by whole seconds. A writer that has none is a test's.
func (b *body) extend() {
	until := b.wait.Add(time.Duration(b.got/Rate) * time.Second)
	if until.After(b.until) {
		b.until = until
		_ = b.rc.SetReadDeadline(until)
	}
}
