package api_test

import "testing"

func TestATransformIsTried(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const path = "/api/v1/subscriptions:transform"
	r.do("POST", path, `{"program":"{id, n: (.a | add)}","data":"{\"id\":9007199254740993,\"a\":[1,2]}"}`).is(200).
		has("output", `{"id":9007199254740993,"n":3}`).has("error", "")
	r.do("POST", path, `{"program":".a.b","data":"{\"a\":1}"}`).is(200).has("output", "").has("error", "expected an object but got: number (1)")
	r.do("POST", path, `{"program":"{a: ","data":"{}"}`).problem(400, "program")
	r.do("POST", path, `{"program":"env","data":"{}"}`).problem(400, "program")
	r.do("POST", path, `{"program":".","data":"{"}`).is(200).has("output", "").has("error", "the data is not JSON: unexpected EOF")
	// And the same when it is saved.
	r.do("PUT", "/api/v1/subscriptions/erp", `{"types":["#"],"transform":"{a: ","destination":{"webhook":{"url":"https://e.example"}}}`).problem(400, "transform")
	r.do("PUT", "/api/v1/subscriptions/erp", `{"types":["#"],"transform":".a","destination":{"webhook":{"url":"https://e.example"}}}`).is(200).has("transform", ".a")
	if s, ok := r.catalog.Subscription("erp"); !ok || s.Transform == nil || s.Transform.String() != ".a" {
		t.Errorf("in force is %+v, want it with its program", s)
	}
}
