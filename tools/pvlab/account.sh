# SPDX-License-Identifier: MIT
# The host's account of a guest: for each vCPU its number, and for how many ns its thread has waited
# to run. $1 is the file with the process ID of the guest's QEMU. Nothing but the shell's own
# commands, since the guest waits for it between two readings of its counts.
exec 2>/dev/null # or what the shell complains of would be a part of the answer
read -r pid <"$1"
for task in "/proc/$pid/task/"*; do
	read -r name <"$task/comm" || continue # QEMU's other threads come and go
	case $name in
	"CPU "*/KVM)
		vcpu=${name#CPU }
		read -r _ run_delay_ns _ <"$task/schedstat"
		echo "${vcpu%/KVM} $run_delay_ns"
		;;
	esac
done
