package transform

import "time"

// Quick lowers the limits that take long to reach, and gives the program all the
// time that it needs for them on a busy machine.
func (p *Program) Quick() *Program {
	p.steps, p.work, p.time = maxSteps/20, maxWork/20, 5*time.Minute
	return p
}

// Hasty gives the program no time.
func (p *Program) Hasty() *Program {
	p.time = time.Nanosecond
	return p
}
