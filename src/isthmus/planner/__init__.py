"""Pure: (fleet, run, measurements) -> Plan, with reasons and warnings."""
