package identity_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/identity"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// A method without a row would be refused to everybody, one with a wrong role
// open to the wrong ones.
func TestEveryMethodOfTheProtosHasARowAndEveryRowAMethod(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, r := range identity.Roles() {
		known[r] = true
	}
	methods := map[string]bool{}
	protoregistry.GlobalFiles.RangeFilesByPackage(posthornv1.File_posthorn_v1_api_proto.Package(), func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				methods["/"+string(s.FullName())+"/"+string(s.Methods().Get(j).Name())] = true
			}
		}
		return true
	})
	if len(methods) == 0 {
		t.Fatal("found no methods at all")
	}
	for m := range methods {
		r, ok := identity.Require(m)
		if !ok {
			t.Errorf("%s has no row in Methods", m)
			continue
		}
		if r != identity.Public && r != identity.Any && !known[string(r)] {
			t.Errorf("%s wants %q, which is no role", m, r)
		}
		name := m[strings.LastIndex(m, "/")+1:]
		for _, verb := range []string{"Create", "Put", "Delete", "Publish", "Retry", "Replay", "Start", "Cancel", "Revert", "Store"} {
			if strings.HasPrefix(name, verb) && !strings.HasSuffix(string(r), ":write") {
				t.Errorf("%s changes something and wants %q", m, r)
			}
		}
	}
	for m := range identity.Methods {
		if !methods[m] {
			t.Errorf("the row of %s is of no method", m)
		}
	}
}

func TestARoleOpensWhatItSaysAndNoMore(t *testing.T) {
	t.Parallel()
	const list, put = "/posthorn.v1.SourceService/ListSources", "/posthorn.v1.SourceService/PutSource"
	tests := []struct {
		name    string
		roles   []string
		method  string
		missing string // "" when allowed
	}{
		{"read reads", []string{"sources:read"}, list, ""},
		{"write reads", []string{"sources:write"}, list, ""},
		{"write writes", []string{"sources:write"}, put, ""},
		{"read does not write", []string{"sources:read"}, put, "sources:write"},
		{"another's write does not read", []string{"policies:write"}, list, "sources:read"},
		{"admin does all", []string{"admin"}, put, ""},
		{"none does nothing", nil, list, "sources:read"},
		{"a role in another spelling is none", []string{"Sources:read", "sources", ":read", ":write"}, list, "sources:read"},
		{"all others do not rotate", identity.Roles()[1:], "/posthorn.v1.AccountService/RotateSigningKey", "admin"},
		{"anybody asks who it is", nil, "/posthorn.v1.AccountService/WhoAmI", ""},
		{"signing in is public", nil, "/posthorn.v1.AccountService/SignIn", ""},
		{"what has no row is nobody's", []string{"admin"}, "/posthorn.v1.SourceService/Nothing", "nobody may"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := identity.Allowed(identity.Identity{Roles: tt.roles}, tt.method)
			if tt.missing == "" {
				if err != nil {
					t.Errorf("got error %v, want none", err)
				}
				return
			}
			if err == nil || errs.KindOf(err) != errs.Denied || !strings.Contains(err.Error(), tt.missing) {
				t.Errorf("got error %v, want one of kind denied with %q", err, tt.missing)
			}
		})
	}
}
