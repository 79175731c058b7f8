package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/netguard"
)

const (
	// maxDrain is how much of an answer is read so that its connection can be
	// used again; more costs more than a new connection.
	maxDrain = 64 << 10
	// maxRetryAfter bounds what an endpoint may ask for: its own mistake should
	// not outlive the delivery.
	maxRetryAfter = 24 * time.Hour
	// maxErrorText bounds an error's text, which may quote the endpoint.
	maxErrorText = 512
)

// answerBuffers are where answers are read before their size is known.
var answerBuffers = sync.Pool{New: func() any { return new([destination.MaxResponse]byte) }}

// readBody reads what is kept of the answer, and the rest if that is cheaper
// than another connection. It does not fail: see the package's comment.
func readBody(resp *http.Response) []byte {
	defer resp.Body.Close()
	if resp.ContentLength == 0 || resp.Body == http.NoBody {
		return nil
	}
	buf := answerBuffers.Get().(*[destination.MaxResponse]byte)
	defer answerBuffers.Put(buf)

	n, err := io.ReadFull(resp.Body, buf[:])
	if err == nil && resp.ContentLength <= maxDrain {
		// An error here is the endpoint's loss: the connection is closed.
		_, _ = io.CopyN(io.Discard, resp.Body, maxDrain-destination.MaxResponse+1)
	}
	return bytes.Clone(buf[:n])
}

// judge sets what follows from the answer's status and header, which came at now.
func (w *Webhook) judge(r *destination.Result, header http.Header, now time.Time) {
	accepted := r.Status/100 == 2
	if w.expectedStatus != 0 {
		accepted = r.Status == w.expectedStatus
	}
	if accepted {
		r.Verdict = destination.Accepted
		return
	}
	r.Verdict = destination.Answered
	r.RetryAfter = parseRetryAfter(header.Get("Retry-After"), now)
	r.Gone = r.Status == http.StatusGone && w.disableOnGone
	switch {
	case r.Status/100 == 2:
		r.Err = fmt.Errorf("answered %s, expected %d", statusText(r.Status), w.expectedStatus)
	case r.Status/100 == 3:
		r.Err = fmt.Errorf("answered %s%s; redirects are not followed", statusText(r.Status), target(header.Get("Location")))
	default:
		r.Err = errors.New("answered " + statusText(r.Status))
	}
}

func statusText(status int) string {
	return strings.TrimSpace(strconv.Itoa(status) + " " + http.StatusText(status))
}

// target says where a redirect points, as far as people may know.
func target(location string) string {
	u, err := url.Parse(location)
	if err != nil || u.Host == "" {
		return ""
	}
	return " to " + clean(u.Scheme+"://"+u.Host+u.EscapedPath())
}

// parseRetryAfter reads a Retry-After header (RFC 9110, section 10.2.3): seconds,
// or a date. What is neither, or is past, is 0.
func parseRetryAfter(value string, now time.Time) time.Duration {
	if value == "" {
		return 0
	}
	seconds, err := strconv.ParseUint(value, 10, 64)
	if err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// noAnswer is the result of an attempt that ended in err.
func noAnswer(ctx context.Context, err error) destination.Result {
	if e, ok := errors.AsType[*tokenError](err); ok {
		return destination.Result{ErrorClass: e.class, Err: e}
	}
	class := classOf(ctx, err)
	text := err.Error()
	if class == destination.ClassTimeout {
		text = "no answer within the timeout"
	}
	return destination.Result{
		Verdict:    destination.NoAnswer,
		ErrorClass: class,
		Err:        &sendError{text: clean(text), cause: err},
	}
}

// classOf finds the error class. The order counts: whatever an attempt was doing
// when its time was up, it timed out; and most of the others are a *net.OpError.
func classOf(ctx context.Context, err error) string {
	if errors.Is(err, netguard.ErrBlocked) {
		return destination.ClassBlocked
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return destination.ClassTimeout
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return destination.ClassDNS
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return destination.ClassTimeout
	}
	op, isOp := errors.AsType[*net.OpError](err)
	switch {
	case isTLS(err, op):
		return destination.ClassTLS
	case isOp && op.Op == "dial":
		return destination.ClassConnect
	case isClosed(err):
		return destination.ClassClosed
	}
	return destination.ClassOther
}

func isTLS(err error, op *net.OpError) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	// Alerts, the peer's and our own, have no exported type but these operations.
	if op != nil && (op.Op == "remote error" || op.Op == "local error") {
		return true
	}
	// No common version, no common cipher: no type at all.
	return strings.HasPrefix(err.Error(), "tls: ")
}

func isClosed(err error) bool {
	for _, target := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED} {
		if errors.Is(err, target) {
			return true
		}
	}
	// net/http has no exported names for these.
	text := err.Error()
	return strings.Contains(text, "server closed idle connection") ||
		strings.Contains(text, "client connection lost") ||
		strings.Contains(text, "GOAWAY") ||
		strings.HasPrefix(text, "stream error: ")
}

// A sendError has a text for people and keeps its cause for the code.
type sendError struct {
	text  string
	cause error
}

func (e *sendError) Error() string { return e.text }
func (e *sendError) Unwrap() error { return e.cause }

// clean makes a text short and valid UTF-8.
func clean(text string) string {
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
