package settings_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/settings"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func TestEveryFlagIsExplainedAndHasADefault(t *testing.T) {
	t.Parallel()
	def := settings.Default()
	if err := settings.Validate(def); err != nil {
		t.Errorf("the default is refused: %v", err)
	}
	settings.Present(def)
	for _, name := range settings.Flags() {
		on, set := def.GetFlags()[name]
		if !set || def.GetAbout()[name] == "" {
			t.Errorf("flag %s is set by default: %t, and explained as %q", name, set, def.GetAbout()[name])
		}
		f := settings.Flag(name)
		if settings.On(nil, f) != on {
			t.Errorf("flag %s is %t where nobody has set it, and %t by default", name, settings.On(nil, f), on)
		}
		if settings.On(&posthornv1.Settings{Flags: map[string]bool{name: !on}}, f) == on {
			t.Errorf("flag %s cannot be changed", name)
		}
	}
}

func TestSettingsAreCompleted(t *testing.T) {
	t.Parallel()
	s := &posthornv1.Settings{Name: "x", Flags: map[string]bool{"versionUpdates": false}, About: map[string]string{"a": "b"}, Meta: &posthornv1.Meta{}}
	settings.Complete(s)
	want := &posthornv1.Settings{Name: settings.Name, Flags: map[string]bool{"versionUpdates": false, "requestRecording": true}}
	if !proto.Equal(s, want) {
		t.Errorf("completed to %v, want %v", s, want)
	}
	err := settings.Validate(&posthornv1.Settings{Flags: map[string]bool{"b": true, "a": false}})
	if diff := cmp.Diff("flags.a", errs.ViolationsOf(err)[0].Field); diff != "" {
		t.Errorf("an unknown flag (-want +got):\n%s", diff)
	}
}
