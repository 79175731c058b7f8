package trace

// Indexed returns a channel that is closed when the index has all that it will
// have of what was stored before it began.
func (t *Tracer) Indexed() <-chan struct{} { return t.indexed }

// Rests reports whether the index stands back, and Behind how many events it lacked
// when it last looked.
func (t *Tracer) Rests() bool    { return t.index.Load().rests.Load() }
func (t *Tracer) Behind() uint64 { return t.index.Load().events.behind() }

const ChunkSize = chunkSize
