package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/interceptor"
	"github.com/posthornhq/posthorn/pkg/source"
)

// problem is RFC 9457's, with what is wrong in detail.
type problem struct {
	Type       string            `json:"type"`
	Title      string            `json:"title"`
	Status     int               `json:"status"`
	Detail     string            `json:"detail,omitempty"`
	Violations []event.Violation `json:"violations,omitempty"`
}

func statusOf(err error) int {
	switch errs.KindOf(err) {
	case errs.Invalid:
		return http.StatusBadRequest
	case errs.Unauthenticated:
		return http.StatusUnauthorized
	case errs.Denied:
		return http.StatusForbidden
	case errs.NotFound:
		return http.StatusNotFound
	case errs.Conflict:
		return http.StatusConflict
	case errs.TooLarge:
		return http.StatusRequestEntityTooLarge
	case errs.Throttled:
		return http.StatusTooManyRequests
	case errs.Full, errs.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// problem answers with an error and returns the status.
func (g *Gateway) problem(w http.ResponseWriter, r *http.Request, src *source.Source, err error) int {
	err = late(err)
	status := statusOf(err)
	if errors.Is(err, error(errMethod)) {
		status = http.StatusMethodNotAllowed
		w.Header().Set("Allow", http.MethodPost)
	}
	if errors.Is(err, error(errTooSlow)) {
		status = http.StatusRequestTimeout
		w.Header().Set("Connection", "close") // the rest of it may still be on its way
	}
	if t, ok := errors.AsType[*throttled](err); ok {
		w.Header().Set("Retry-After", strconv.Itoa(int(ceilSeconds(t.after)/time.Second)))
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", challengeOf(src))
	}
	name := ""
	if src != nil {
		name = src.Name()
	}
	if status >= 500 {
		g.log.Error("a request was not taken", "source", name, "remote", g.remote(r), "err", err)
		w.Header().Set("Retry-After", "5")
	}
	g.metrics.requests.WithLabelValues(name, strconv.Itoa(status)).Inc()
	writeProblem(w, problem{
		Type: "urn:posthorn:problem:" + errs.ReasonOf(err), Title: http.StatusText(status), Status: status,
		Detail: errs.MessageOf(err), Violations: errs.ViolationsOf(err),
	})
	return status
}

// challengeOf is what a 401 must say (RFC 9110, 11.6.1): that the source's own
// scheme is wanted. There is no registered name for signatures of webhooks.
func challengeOf(src *source.Source) string {
	if src == nil {
		return "Bearer"
	}
	return "Posthorn realm=" + strconv.Quote(src.Name())
}

// late makes of a deadline that passed what it is to a publisher: not a fault in
// the platform, but something to try again.
func late(err error) error {
	if errs.KindOf(err) == errs.Internal && errors.Is(err, context.DeadlineExceeded) {
		return errs.Wrap(err, errs.Unavailable, "the request was not taken in time; try again later")
	}
	return err
}

func writeProblem(w http.ResponseWriter, p problem) {
	body, err := json.Marshal(p)
	if err != nil {
		http.Error(w, p.Title, p.Status)
		return
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // the client may be gone
}

func writeNotFound(w http.ResponseWriter, r *http.Request) {
	writeProblem(w, problem{
		Type: "urn:posthorn:problem:not-found", Title: http.StatusText(http.StatusNotFound), Status: http.StatusNotFound,
		Detail: "there is nothing at " + r.URL.Path + "; events go to /events/<source>, the Master API is at /api/v1",
	})
}

var jsonType = []string{"application/json"}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header()["Content-Type"] = jsonType
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may be gone
}

// resultsJSON is the answer for a batch.
func resultsJSON(results []event.Result, dropped int) []byte {
	type rejected struct {
		Index      int               `json:"index"`
		Detail     string            `json:"detail"`
		Violations []event.Violation `json:"violations,omitempty"`
	}
	answer := struct {
		IDs        []string   `json:"ids"`
		Duplicates int        `json:"duplicates"`
		Dropped    int        `json:"dropped"`
		Rejected   []rejected `json:"rejected,omitempty"`
	}{IDs: make([]string, 0, len(results)), Dropped: dropped}
	for i := range results {
		if err := results[i].Err; err != nil {
			answer.Rejected = append(answer.Rejected, rejected{i, errs.MessageOf(err), errs.ViolationsOf(err)})
			continue
		}
		answer.IDs = append(answer.IDs, results[i].Receipt.ID)
		if results[i].Receipt.Duplicate {
			answer.Duplicates++
		}
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return []byte(`{"ids":[]}`) // nothing in it fails to encode
	}
	return body
}

// remote returns the address of who sent a request, as far as it is known; the
// peer's own where proxies do not make sense.
func (g *Gateway) remote(r *http.Request) string {
	if a, err := interceptor.ClientAddr(r.RemoteAddr, r.Header, g.cfg.TrustedProxies); err == nil {
		return a.String()
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
