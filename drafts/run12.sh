# worker: takes jobs from /tmp/d/jobs12
cd /tmp/runsrc12; export PYTHONPATH=/tmp/runsrc12 PATH=/work/env/dev/bin:$PATH OMP_NUM_THREADS=1
mkdir -p /tmp/q12
n=0; while IFS='|' read -r arm seeds <&3; do for s in ${seeds//,/ }; do n=$((n+1))
  [ -e /tmp/q12/stop ] && exit
  mkdir /tmp/q12/$n 2>/dev/null || continue
  more=""; case "$arm" in semmim*|image_text*) more=,caption1,caption5;; esac
  mssl_compare "$arm" --data scenes:small --seeds $s --epochs 6 --bs 64 --size 32 --precision bf16 --measures knn,linear,few1,few10,miou,box$more --name together --folder /tmp/m/s12 > /tmp/q12/out.$n 2>&1
  echo "$(date +%T) $arm $s rc $?" >> /tmp/q12/log
done; done 3< /tmp/d/jobs12
