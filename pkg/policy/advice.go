package policy

import (
	"fmt"
	"slices"
	"strings"

	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// futile are the statuses that it makes no sense to retry on, with the reason (S13).
var futile = []struct {
	status int
	reason string
}{
	{400, "the endpoint does not understand the request, and will get the very same one again"},
	{401, "it will be refused until somebody corrects the credentials"},
	{403, "the endpoint understood the request and forbids it"},
	{404, "there is nothing at this URL, and the URL will not change between retries"},
}

// useful are the statuses that it makes sense to retry on, with the reason (S13).
var useful = []struct {
	status int
	reason string
}{
	{408, "the endpoint gave up waiting for the request"},
	{429, "the endpoint asks to be called more slowly"},
	{500, "an error inside the endpoint is often gone the next time"},
	{502, "a proxy before the endpoint did not reach it for the moment"},
	{503, "the endpoint is overloaded or being restarted"},
	{504, "a proxy before the endpoint waited for it too long"},
}

// Warnings returns advice on the retry codes of a valid spec, a sentence each:
// which make no sense, and which would and are not there. None of it is a
// reason to refuse the policy (S13).
func Warnings(spec *posthornv1.Policy) []string {
	d := spec.GetDelivery()
	if maxRetries(d) == 0 || slices.Equal(d.GetRetryOn(), []string{NoStatus}) {
		return nil // it is meant so
	}
	var set, explicit statusSet
	for _, entry := range retryOn(d) {
		set.addAll(entry)
		if !strings.HasSuffix(entry, "xx") {
			explicit.addAll(entry)
		}
	}

	var warnings []string
	if slices.Contains(retryOn(d), "4xx") {
		warnings = append(warnings, "Retrying on all of 4xx makes little sense: most of these mean that the request itself is wrong, "+
			"and it will be no better the next time; 408 and 429 are the ones to retry on.")
	}
	for _, f := range futile {
		if explicit.has(f.status) {
			warnings = append(warnings, fmt.Sprintf("Retrying on %d makes no sense: %s.", f.status, f.reason))
		}
	}
	for _, u := range useful {
		if !set.has(u.status) {
			warnings = append(warnings, fmt.Sprintf("You may want to retry on %d as well: %s.", u.status, u.reason))
		}
	}
	return warnings
}
