package api_test

import (
	"net/http"
	"testing"

	"github.com/posthornhq/posthorn/pkg/settings"
)

func TestSettingsAreOneResourceOfKnownFlags(t *testing.T) {
	t.Parallel()
	eachWay(t, func(t *testing.T, r *rig) {
		const path = "/api/v1/settings"
		r.do("GET", path, "").is(http.StatusOK).has("flags.requestRecording", true).has("flags.versionUpdates", true).
			has("name", "platform").contains("new version")
		if !r.catalog.Flag(settings.RequestRecording) {
			t.Error("requests are not recorded, want it by default")
		}
		put := r.do("PUT", path, `{"flags":{"requestRecording":false}}`).is(http.StatusOK).has("flags.requestRecording", false).has("flags.versionUpdates", true).has("meta.updatedBy", "admin")
		if r.catalog.Flag(settings.RequestRecording) || !r.catalog.Flag(settings.VersionUpdates) {
			t.Error("the edit that was answered is not in force")
		}
		if got := r.do("GET", path, "").header.Get("ETag"); got == "" || got != put.header.Get("ETag") {
			t.Errorf("ETag is %q, that of the edit %q", got, put.header.Get("ETag"))
		}
		r.do("PUT", path, `{"flags":{"fly":true}}`).problem(http.StatusBadRequest, "flags.fly").contains("requestRecording, versionUpdates")
		r.do("PUT", path, `{"name":"other"}`).problem(http.StatusBadRequest, "name")
		r.do("PUT", path, `{}`, `If-Match: "0"`).problem(http.StatusPreconditionFailed, "")
		// What is left out has its default.
		r.do("PUT", path, `{}`, "If-Match: "+put.header.Get("ETag")).is(http.StatusOK).has("flags.requestRecording", true)
		if !r.catalog.Flag(settings.RequestRecording) {
			t.Error("the flag is still off")
		}
		r.do("GET", "/api/v1/audit?kind=settings", "").is(http.StatusOK).contains("requestRecording").contains(`"who":"admin"`)
	})
}

func TestTwoBackoffsOfTheSameEventsAreRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.do("PUT", "/api/v1/backoffs/a", `{"type":"order.#","maxRetries":9}`).is(http.StatusOK)
	r.do("PUT", "/api/v1/backoffs/a", `{"type":"order.#","maxRetries":8}`).is(http.StatusOK)
	r.do("PUT", "/api/v1/backoffs/b", `{"type":"order.#","maxRetries":7}`).problem(http.StatusBadRequest, "type")
	r.do("PUT", "/api/v1/backoffs/b", `{"type":"order.#","source":"shop","maxRetries":7}`).is(http.StatusOK)
	r.do("PUT", "/api/v1/backoffs/c", `{"type":"order.#","maxRetries":11}`).problem(http.StatusBadRequest, "maxRetries")
	r.do("PUT", "/api/v1/backoffs/c", `{"type":"order.#"}`).problem(http.StatusBadRequest, "backoff")

	// In force when it is answered, and out of it again.
	base := r.catalog.Policy("")
	if got := base.MaxDeliver(); got != 9 {
		t.Errorf("the queue hands out %d times, want 9", got)
	}
	if got := r.catalog.Delivery(base, "shop", "order.created").MaxRetries; got != 7 {
		t.Errorf("an order of the shop is tried again %d times, want 7", got)
	}
	// It can be seen beforehand.
	simulate := func(policy, more string) answer {
		return r.do("POST", "/api/v1/policies/"+policy+":simulate", `{"request":{}`+more+`}`).is(http.StatusOK)
	}
	r.do("PUT", "/api/v1/sources/shop", `{"kind":"GENERIC"}`).is(http.StatusOK)
	r.do("PUT", "/api/v1/policies/own", `{"delivery":{"maxRetries":2}}`).is(http.StatusOK)
	simulate("default", "").has("schedule.4", "16s").has("schedule.5", nil)
	simulate("default", `,"type":"order.created"`).has("schedule.7", "128s").has("schedule.8", nil)
	simulate("default", `,"type":"order.created","source":"shop"`).has("schedule.6", "64s").has("schedule.7", nil)
	simulate("own", `,"type":"order.created","source":"shop"`).has("schedule.1", "2s").has("schedule.2", nil)

	r.do("DELETE", "/api/v1/backoffs/b", "").is(http.StatusNoContent)
	if got := r.catalog.Delivery(base, "shop", "order.created").MaxRetries; got != 8 {
		t.Errorf("after the deletion it is tried again %d times, want 8", got)
	}
	r.do("DELETE", "/api/v1/backoffs/a", "").is(http.StatusNoContent)
	if got := r.catalog.Policy("default"); got.MaxDeliver() != 6 || r.catalog.Delivery(got, "shop", "order.created") != got {
		t.Errorf("without overrides the default policy is %+v", got)
	}
	// An edit of the default policy keeps room for the overrides.
	r.do("PUT", "/api/v1/backoffs/a", `{"maxRetries":9}`).is(http.StatusOK)
	r.do("PUT", "/api/v1/policies/default", `{"delivery":{"maxRetries":1}}`).is(http.StatusOK)
	if got := r.catalog.Policy("default"); got.MaxRetries != 1 || got.MaxDeliver() != 10 || len(r.catalog.Policies()) != 2 {
		t.Errorf("the default policy is %+v of %d policies, want 1 retry, handed out up to 10 times, and policy own", got, len(r.catalog.Policies()))
	}
}
