package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/posthornhq/posthorn/pkg/destination"
)

const (
	// maxDrain is how much of an answer is read so that its connection can be
	// used again; more costs more than a new connection.
	maxDrain = 64 << 10
	// maxRetryAfter bounds what an endpoint may ask for: its own mistake should
	// not outlive the delivery.
	maxRetryAfter = 24 * time.Hour
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
	return " to " + destination.Clean(u.Scheme+"://"+u.Host+u.EscapedPath())
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
	return destination.Failed(classOf(ctx, err), err)
}

// classOf knows what [destination.ClassOf] cannot: net/http has no exported names for
// these.
func classOf(ctx context.Context, err error) string {
	class, text := destination.ClassOf(ctx, err), err.Error()
	if class == destination.ClassOther && (strings.Contains(text, "server closed idle connection") ||
		strings.Contains(text, "client connection lost") || strings.Contains(text, "GOAWAY") || strings.HasPrefix(text, "stream error: ")) {
		return destination.ClassClosed
	}
	return class
}
