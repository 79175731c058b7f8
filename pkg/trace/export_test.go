package trace

// Rests reports whether the index stands back, and Behind how many events it lacked
// when it last looked.
func (t *Tracer) Rests() bool    { return t.index.Load().rests.Load() }
func (t *Tracer) Behind() uint64 { return t.index.Load().events.behind() }
