#include "calibrate/calibrate.h"

int main(int argc, char **argv)
{
    return rh_stage_main(&rh_calibrate_stage, argc, argv);
}
