package source

import (
	"math"
	"net/http"
	"strconv"
)

// AllowWebhook answers the validation request of HTTP 1.1 Web Hooks for Event
// Delivery (CloudEvents), an OPTIONS with header WebHook-Request-Origin: it
// returns the headers that allow the sender to deliver to this source. They are
// nil if the request asks for nothing, or for something that is no origin: the
// answer is then one without permission.
//
// If the sender says how many requests a minute it means to make, the answer
// says how many it may: no more than the source's own limits, "*" if it has none
// and the sender names no positive number. A WebHook-Request-Callback is not
// called, as the answer is at once.
func (s *Source) AllowWebhook(h http.Header) http.Header {
	origin := h.Get("WebHook-Request-Origin")
	if !validOrigin(origin) {
		return nil
	}
	answer := http.Header{}
	answer.Set("WebHook-Allowed-Origin", origin)
	if asked := h.Get("WebHook-Request-Rate"); asked != "" {
		answer.Set("WebHook-Allowed-Rate", s.allowedRate(asked))
	}
	return answer
}

// allowedRate is in requests a minute, and at least 1: 0 has no form there.
func (s *Source) allowedRate(asked string) string {
	limit := math.Inf(1)
	for _, perSecond := range []float64{s.spec.GetRatePerClient(), s.spec.GetRatePerSecond()} {
		if perSecond > 0 {
			limit = min(limit, perSecond*60)
		}
	}
	if n, err := strconv.ParseUint(asked, 10, 32); err == nil && n > 0 {
		limit = min(limit, float64(n))
	}
	// What would not go into an int64 is no limit.
	if limit > math.MaxUint32 {
		return "*"
	}
	return strconv.FormatInt(max(1, int64(limit)), 10)
}

// validOrigin says whether s may be the sender's name: a DNS name, to which some
// add a port or a scheme. It is written back, so nothing else may be in it.
func validOrigin(s string) bool {
	for _, c := range []byte(s) {
		if !isAlphanumeric(c) && c != '-' && c != '.' && c != ':' && c != '/' && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= 255
}
