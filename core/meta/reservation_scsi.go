package meta

// A reservation is one state for both protocols. What iSCSI initiator ports do to it follows SCSI's
// rules, which differ from NVMe's where this file says so. SPC-4 5.13

// applySCSI carries out a command of an iSCSI initiator port.
func (r *Reservation) applySCSI(q ReserveRequest, told *[]Notification) ReserveResult {
	switch q.Action {
	case ReserveRegister:
		return r.registerSCSI(q, told)
	case ReserveAcquire:
		return r.acquire(q, told)
	case ReservePreempt, ReservePreemptAbort:
		before := r.Type
		result := r.acquire(q, told)
		// Whoever stays registered hears of a new type, whatever the old one was.
		if result == ReserveOK && before != NoReservation && before != r.Type && !before.shared() {
			r.tell(q.Host, ReservationReleased, told)
		}
		return result
	case ReserveRelease, ReserveClear:
		i := r.find(q.Host)
		if q.Action == ReserveRelease && i >= 0 && r.Registrants[i].Key == q.Key && !r.Registrants[i].Holder {
			return ReserveOK // a registrant that holds nothing releases nothing. SPC-4 5.13.11.2.2
		}
		return r.release(q, told)
	case ReserveUnit:
		return r.reserveUnit(q.Host)
	case ReserveReleaseUnit:
		if r.Unit != nil && r.Unit.Same(q.Host) {
			r.Unit = nil
		}
		return ReserveOK
	case ReserveResetUnit:
		r.Unit = nil
		return ReserveOK
	case ReserveReport, ReserveUnregister, ReserveReplace, ReserveSetPersistence: // of NVMe
	}
	return ReserveInvalid
}

// registerSCSI is REGISTER, or with IgnoreKey REGISTER AND IGNORE EXISTING KEY: one command makes,
// changes and ends a registration. SPC-4 5.13.7 and 5.13.11.2.3
func (r *Reservation) registerSCSI(q ReserveRequest, told *[]Notification) ReserveResult {
	i := r.find(q.Host)
	switch {
	case i < 0 && q.Key != 0 && !q.IgnoreKey:
		return ReserveConflict
	case i >= 0 && r.Registrants[i].Key != q.Key && !q.IgnoreKey:
		return ReserveConflict
	case i < 0 && q.NewKey != 0 && len(r.Registrants) >= maxRegistrants:
		return ReserveConflict
	}
	if result := r.persist(q.Persistence); result != ReserveOK {
		return result
	}
	switch {
	case i < 0 && q.NewKey == 0:
		return ReserveOK
	case i < 0:
		r.Registrants = append(r.Registrants, Registrant{Host: q.Host, Key: q.NewKey, Holder: r.Type.all()})
	case q.NewKey == 0:
		r.remove(i, told)
	default:
		r.Registrants[i].Key = q.NewKey
	}
	r.Generation++
	return ReserveOK
}

// reserveUnit is RESERVE (6). Where there are registrations it does nothing for those that have
// access by them, and conflicts for others: compatible reservation handling. SPC-3 5.6.3
func (r *Reservation) reserveUnit(h HostID) ReserveResult {
	switch {
	case len(r.Registrants) > 0:
		if i := r.find(h); i >= 0 && (r.Registrants[i].Holder || r.Type.shared()) {
			return ReserveOK
		}
		return ReserveConflict
	case r.Unit != nil && !r.Unit.Same(h):
		return ReserveConflict
	}
	r.Unit = &h
	return ReserveOK
}
