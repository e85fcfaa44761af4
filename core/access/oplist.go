package access

// opList is a first-in first-out list of commands, linked through them. A command is
// in one at most: where it is parked.
type opList struct {
	head, tail *op
	n          int
}

func (l *opList) push(o *op) {
	if o.parked != nil {
		panic("access: a command is parked twice")
	}
	o.parked = l
	o.before, o.after = l.tail, nil
	if l.tail != nil {
		l.tail.after = o
	} else {
		l.head = o
	}
	l.tail = o
	l.n++
}

// remove takes o out of l.
func (l *opList) remove(o *op) {
	if o.parked != l {
		panic("access: a command is not parked where it is looked for")
	}
	if o.before != nil {
		o.before.after = o.after
	} else {
		l.head = o.after
	}
	if o.after != nil {
		o.after.before = o.before
	} else {
		l.tail = o.before
	}
	o.parked, o.before, o.after = nil, nil, nil
	l.n--
}
