package catalog_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/pkg/settings"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// What is stored is in force in every process, and in one that starts later; what
// cannot be used leaves what was there.
func TestOverridesAndSettingsAreMirrored(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	early := s.start(t, quiet())
	s.put(t, "backoffs.orders", &posthornv1.BackoffOverride{Name: "orders", Type: "order.#", MaxRetries: proto.Int32(8)})
	last := s.put(t, "settings.platform", &posthornv1.Settings{Name: "platform", Flags: map[string]bool{"versionUpdates": false, "ofALaterVersion": true}})
	wait(t, early, last, 0)
	late := s.start(t, quiet())
	for _, c := range []interface {
		Flag(settings.Flag) bool
	}{early, late} {
		if c.Flag(settings.VersionUpdates) || !c.Flag(settings.RequestRecording) {
			t.Error("a flag is not as it is stored, or by default")
		}
	}
	wait(t, early, s.putRaw(t, "backoffs.orders", `{"name":"orders","maxRetries":99}`), 0)
	if got := early.Delivery(early.Policy(""), "", "order.created").MaxRetries; got != 8 {
		t.Errorf("an order is tried again %d times, want 8 as before the edit that cannot be used", got)
	}
	if got := early.Problems(); len(got) != 1 || got[0].Kind != "backoffs" || !got[0].InForce {
		t.Errorf("problems are %+v, want the one of the backoff, the version before in force", got)
	}
	wait(t, late, s.put(t, "backoffs.orders", &posthornv1.BackoffOverride{Name: "orders", MaxRetries: proto.Int32(7)}), 0)
	if got := late.Policy("default").MaxDeliver(); got != 8 {
		t.Errorf("the queue hands out %d times, want 8", got)
	}
	if err := s.config.Delete(t.Context(), "backoffs.orders"); err != nil {
		t.Fatal(err)
	}
	if err := s.config.Delete(t.Context(), "settings.platform"); err != nil {
		t.Fatal(err)
	}
	wait(t, early, s.putRaw(t, "settings.mark", "{}"), 0) // a deletion does not tell its revision
	if got := early.Policy("default"); early.Delivery(got, "", "order.created") != got || got.MaxDeliver() != 6 || !early.Flag(settings.VersionUpdates) {
		t.Errorf("after the deletions the default policy is %+v", got)
	}
}
