package settings

import (
	"maps"
	"slices"
	"strings"

	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Name is that of the one resource.
const Name = "platform"

// A Flag switches a feature on or off.
type Flag string

const (
	// RequestRecording keeps the last requests of each source, without their
	// credentials, so that policies can be simulated on them.
	RequestRecording Flag = "requestRecording"
	// VersionUpdates sends an event to the subscribers of a schema when it has a new
	// version.
	VersionUpdates Flag = "versionUpdates"
)

// known has every flag, what it is by default, and what it does.
var known = map[Flag]struct {
	on    bool
	about string
}{
	RequestRecording: {true, "Gateways keep the last requests of each source for a day, without their credentials and bodies, for the simulation of policies."},
	VersionUpdates:   {true, "Subscribers of a schema get an event when it has a new version."},
}

// Flags returns the names of all flags, sorted.
func Flags() []string {
	var names []string
	for f := range known {
		names = append(names, string(f))
	}
	slices.Sort(names)
	return names
}

// Default returns the settings of a platform whose settings nobody has changed.
func Default() *posthornv1.Settings {
	s := &posthornv1.Settings{Name: Name}
	Complete(s)
	return s
}

// Complete gives the flags that s leaves out their defaults, and takes out what is
// output only.
func Complete(s *posthornv1.Settings) {
	s.Name, s.About, s.Meta = Name, nil, nil
	flags := make(map[string]bool, len(known))
	for f, k := range known {
		flags[string(f)] = k.on
	}
	maps.Copy(flags, s.GetFlags())
	s.Flags = flags
}

// Present adds what each flag does.
func Present(s *posthornv1.Settings) {
	s.About = make(map[string]string, len(known))
	for f, k := range known {
		s.About[string(f)] = k.about
	}
}

// Validate returns an error of kind [errs.Invalid] about the first field of spec
// that is wrong.
func Validate(spec *posthornv1.Settings) error {
	for _, name := range slices.Sorted(maps.Keys(spec.GetFlags())) {
		if _, ok := known[Flag(name)]; !ok {
			return errs.Field("flags."+name, "there is no such flag; these are: %s", strings.Join(Flags(), ", "))
		}
	}
	return nil
}

// On reports whether a flag is set in spec, or by default where spec leaves it out
// or is nil.
func On(spec *posthornv1.Settings, f Flag) bool {
	if on, set := spec.GetFlags()[string(f)]; set {
		return on
	}
	return known[f].on
}
